#![no_main]

fuzz::reader!(forebay::fuzzing::orders);
