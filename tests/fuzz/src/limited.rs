//! An allocator that ends the program when so much is asked for at once as no input here explains.
//!
//! libFuzzer's own limit for that needs a sanitizer, which stable Rust has not.

use std::alloc::{GlobalAlloc, Layout, System};

/// Inputs have 4 KiB, and 1 MiB may be unsent: a reader that believes a length before its bytes have come
/// asks for more.
const LEN_MAX: usize = 4 * 1024 * 1024;

pub(crate) struct Limited;

// SAFETY: it is the system's allocator, and does not return where that is not asked.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(place, layout) }
    }
}

fn check(size: usize) {
    if size > LEN_MAX {
        eprintln!("an allocation of {size} bytes, {LEN_MAX} are explained");
        // libFuzzer keeps the input.
        std::process::abort();
    }
}
