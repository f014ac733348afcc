//! What an application says with the macros of `tracing`, as records of the `log` facade.
//!
//! Nothing is kept here but the fields of spans, in the subscriber's own place for them. Where records
//! go, and which of them, is the logger's business.

use std::cell::RefCell;
use std::fmt::{self, Display, Write};
use std::ops::Range;

use log::kv::{self, Key, VisitSource};
use log::{Level, LevelFilter, Log, Record};
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id};
use tracing_core::{Event, Metadata, Subscriber, callsite, metadata, span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::{LookupSpan, SpanRef};

/// The field that is the message.
const MESSAGE: &str = "message";

/// What a thread keeps for its next event, in bytes.
const SCRATCH_LEN_MAX: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A layer for a subscriber of `tracing`: every event becomes a record of forebay's log, in the one writer's
/// file with all others.
///
/// Level, target and module stay what they are, the event's field `message` is the message, and its other
/// fields are keys and values beside it. The fields of the spans around the event follow under the name of
/// their span, the outermost first: `request.method` for the field `method` of the span `request`. Of two
/// with the same name the nearest wins, and the event's own is nearer than any span's. A span without
/// fields does not show, and neither does the beginning or the end of one.
///
/// What is logged is decided as for the macros of `log`: by `[log] level` and `RUST_LOG`, which count for
/// spans too. Other layers of the same subscriber hear what they want nonetheless. An application with a
/// logger of its own that changes the `log` facade's level later calls
/// `tracing::callsite::rebuild_interest_cache()` then.
///
/// ```
/// use axum::{Router, extract::Path, routing::get};
/// use tracing_subscriber::layer::SubscriberExt;
///
/// async fn goods(Path(number): Path<u32>) -> String {
///     tracing::info_span!("goods", number).in_scope(|| {
///         tracing::info!(shelf = number / 100, "found"); // found shelf=4 goods.number=421
///         format!("number {number}")
///     })
/// }
///
/// let layer = forebay::tracing_layer();
/// tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;
/// let app = forebay::App::new("shop")
///     .http(async |_| Ok(Router::new().route("/{number}", get(goods))));
/// # Ok::<(), forebay::BoxError>(())
/// ```
///
/// Before `App::main`, every process has it. Not `init()`: with the feature `tracing-log` of
/// `tracing-subscriber`, which is one of its defaults, that wants to be the logger of the `log` facade too,
/// and that is forebay's, whose records would come back to it.
///
/// The feature `log-always` of the crate `tracing` writes each event to the `log` facade too: then it is
/// logged twice, once without its spans. The feature `log` does so only as long as no subscriber was set.
pub fn tracing_layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    layer(Facade { logger: log::logger, max_level: log::max_level })
}

/// The facade's level has changed.
pub(crate) fn refiltered() {
    // What `tracing` does not ask the layer for, it remembers.
    callsite::rebuild_interest_cache();
}

fn layer<S>(facade: Facade) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    Records(facade).with_filter(Wanted(facade))
}

/// Where records go. Both are asked each time: a process changes its logger while it becomes what it is.
#[derive(Clone, Copy)]
struct Facade {
    logger: fn() -> &'static dyn Log,
    max_level: fn() -> LevelFilter,
}

/// Which events and spans the layer hears of.
struct Wanted(Facade);

impl<S> Filter<S> for Wanted {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        let level = level(metadata);
        let wanted = || log::Metadata::builder().level(level).target(metadata.target()).build();
        level <= (self.0.max_level)() && (self.0.logger)().enabled(&wanted())
    }

    fn max_level_hint(&self) -> Option<metadata::LevelFilter> {
        Some(match (self.0.max_level)() {
            LevelFilter::Off => metadata::LevelFilter::OFF,
            LevelFilter::Error => metadata::LevelFilter::ERROR,
            LevelFilter::Warn => metadata::LevelFilter::WARN,
            LevelFilter::Info => metadata::LevelFilter::INFO,
            LevelFilter::Debug => metadata::LevelFilter::DEBUG,
            LevelFilter::Trace => metadata::LevelFilter::TRACE,
        })
    }
}

fn level(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        metadata::Level::ERROR => Level::Error,
        metadata::Level::WARN => Level::Warn,
        metadata::Level::INFO => Level::Info,
        metadata::Level::DEBUG => Level::Debug,
        metadata::Level::TRACE => Level::Trace,
    }
}

/// The layer itself.
struct Records(Facade);

/// The fields of a span, in the order in which they were said.
#[derive(Default)]
struct SpanFields(Vec<(&'static str, Value<String>)>);

impl<S> Layer<S> for Records
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // Before the span is locked: a `Debug` may log, and its event would look at the span.
        let fields = SpanFields::of(|visitor| attributes.record(visitor));
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let fields = SpanFields::of(|visitor| values.record(visitor));
        let Some(span) = context.span(id) else { return };
        if let Some(known) = span.extensions_mut().get_mut::<SpanFields>() {
            known.change(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        // A `Debug` of this very event that logs finds none, nor does a thread that ends: then a fresh one
        // serves.
        let mut scratch = SCRATCH.try_with(RefCell::take).unwrap_or_default();
        scratch.clear();
        event.record(&mut Visitor(|name, value: Value<&dyn Display>| scratch.add_own(name, value)));
        scratch.add_spans(context.event_scope(event).into_iter().flatten());
        (self.0.logger)().log(
            &Record::builder()
                .args(format_args!("{}", scratch.message))
                .level(level(metadata))
                .target(metadata.target())
                .module_path_static(metadata.module_path())
                .file_static(metadata.file())
                .line(metadata.line())
                .key_values(&scratch)
                .build(),
        );
        if scratch.message.capacity() + scratch.text.capacity() <= SCRATCH_LEN_MAX {
            let _ = SCRATCH.try_with(|place| place.replace(scratch));
        }
    }
}

impl SpanFields {
    fn of(record: impl FnOnce(&mut dyn Visit)) -> Self {
        let mut fields = Self::default();
        record(&mut Visitor(|name, value: Value<&dyn Display>| {
            fields.0.push((name, value.with_text(displayed)));
        }));
        fields
    }

    fn change(&mut self, later: Self) {
        for (name, value) in later.0 {
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => self.0.push((name, value)),
            }
        }
    }
}

fn displayed(value: impl Display) -> String {
    let mut text = String::new();
    // What fails has written what it could.
    let _ = write!(text, "{value}");
    text
}

/// A field's value, with its text as it is at hand.
#[derive(Clone, Copy)]
enum Value<T> {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    SignedWide(i128),
    UnsignedWide(u128),
    Float(f64),
    Text(T),
}

impl<T> Value<T> {
    fn with_text<'a, U>(&'a self, change: impl FnOnce(&'a T) -> U) -> Value<U> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Signed(value) => Value::Signed(*value),
            Self::Unsigned(value) => Value::Unsigned(*value),
            Self::SignedWide(value) => Value::SignedWide(*value),
            Self::UnsignedWide(value) => Value::UnsignedWide(*value),
            Self::Float(value) => Value::Float(*value),
            Self::Text(text) => Value::Text(change(text)),
        }
    }
}

impl<'a> From<Value<&'a str>> for kv::Value<'a> {
    fn from(value: Value<&'a str>) -> Self {
        match value {
            Value::Bool(value) => value.into(),
            Value::Signed(value) => value.into(),
            Value::Unsigned(value) => value.into(),
            Value::SignedWide(value) => value.into(),
            Value::UnsignedWide(value) => value.into(),
            Value::Float(value) => value.into(),
            Value::Text(text) => text.into(),
        }
    }
}

impl<T: Display> Display for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::SignedWide(value) => value.fmt(f),
            Self::UnsignedWide(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// Hands on what `tracing` tells of one field after the other.
struct Visitor<F>(F);

impl<F: FnMut(&'static str, Value<&dyn Display>)> Visit for Visitor<F> {
    fn record_bool(&mut self, field: &Field, value: bool) {
        (self.0)(field.name(), Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        (self.0)(field.name(), Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        (self.0)(field.name(), Value::Unsigned(value));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        (self.0)(field.name(), Value::SignedWide(value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        (self.0)(field.name(), Value::UnsignedWide(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        (self.0)(field.name(), Value::Float(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        (self.0)(field.name(), Value::Text(&value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        (self.0)(field.name(), Value::Text(&format_args!("{value:?}")));
    }
}

/// An event as it is being collected: keys and texts lie one behind the other.
#[derive(Default)]
struct Scratch {
    message: String,
    text: String,
    fields: Vec<(Range<usize>, Value<Range<usize>>)>,
}

impl Scratch {
    fn clear(&mut self) {
        self.message.clear();
        self.text.clear();
        self.fields.clear();
    }

    fn add_own(&mut self, name: &str, value: Value<&dyn Display>) {
        if name == MESSAGE {
            let _ = write!(self.message, "{value}");
        } else {
            self.add(format_args!("{name}"), value);
        }
    }

    /// Those around the event, the nearest first: each is added last field first, and then all are turned round.
    fn add_spans<'a, S: LookupSpan<'a> + 'a>(&mut self, spans: impl Iterator<Item = SpanRef<'a, S>>) {
        let own = self.fields.len();
        for span in spans {
            let extensions = span.extensions();
            for (name, value) in extensions.get::<SpanFields>().iter().flat_map(|fields| fields.0.iter().rev()) {
                self.add(format_args!("{}.{name}", span.name()), value.with_text(|text| text as &dyn Display));
            }
        }
        self.fields[own..].reverse();
    }

    /// Adds a field, unless one of this name is nearer.
    fn add(&mut self, key: fmt::Arguments<'_>, value: Value<&dyn Display>) {
        let key = self.append(key);
        if self.fields.iter().any(|(known, _)| self.text[known.clone()] == self.text[key.clone()]) {
            return;
        }
        let value = value.with_text(|text| self.append(text));
        self.fields.push((key, value));
    }

    fn append(&mut self, what: impl Display) -> Range<usize> {
        let start = self.text.len();
        let _ = write!(self.text, "{what}");
        start..self.text.len()
    }
}

impl kv::Source for Scratch {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        self.fields.iter().try_for_each(|(key, value)| {
            let key = Key::from_str(&self.text[key.clone()]);
            visitor.visit_pair(key, value.with_text(|text| &self.text[text.clone()]).into())
        })
    }

    fn count(&self) -> usize {
        self.fields.len()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tracing::{debug, debug_span, error, info, info_span, subscriber, trace, warn};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::registry;

    use super::*;

    thread_local! {
        static SEEN: RefCell<Vec<String>> = RefCell::default();
    }

    /// A logger that remembers what the thread has logged, and wants nothing of the target `quiet`.
    struct Memory;

    impl Log for Memory {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target() != "quiet"
        }

        fn log(&self, record: &Record<'_>) {
            let mut line = format!("{} {} {}", record.level(), record.target(), record.args());
            let mut keys = Keys(&mut line);
            record.key_values().visit(&mut keys).expect("it takes all");
            SEEN.with_borrow_mut(|seen| seen.push(line));
        }

        fn flush(&self) {}
    }

    struct Keys<'a>(&'a mut String);

    impl<'kvs> VisitSource<'kvs> for Keys<'_> {
        fn visit_pair(&mut self, key: Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
            let _ = write!(self.0, " {key}={value:?}");
            Ok(())
        }
    }

    fn facade(max_level: fn() -> LevelFilter) -> Facade {
        Facade { logger: || &Memory, max_level }
    }

    /// What is logged meanwhile.
    fn seen(act: impl FnOnce()) -> Vec<String> {
        SEEN.take();
        subscriber::with_default(registry().with(layer(facade(|| LevelFilter::Debug))), act);
        SEEN.take()
    }

    #[test]
    fn an_event_is_a_record() {
        let lines = seen(|| {
            error!(target: "shop", "out of {}", "plums");
            warn!(count = 3, ratio = 0.5, ok = true, who = "é", below = -1, "six kinds");
            debug!(reason = ?Some("x"), shown = %1.5, "as it is formatted");
            info!(large = u128::MAX, "wide");
            info!("plain");
        });
        let target = module_path!();
        let expected = [
            "ERROR shop out of plums".to_owned(),
            format!("WARN {target} six kinds count=3 ratio=0.5 ok=true who=\"é\" below=-1"),
            format!("DEBUG {target} as it is formatted reason=\"Some(\\\"x\\\")\" shown=\"1.5\""),
            format!("INFO {target} wide large={}", u128::MAX),
            format!("INFO {target} plain"),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_spans_around_it_are_told_the_outermost_first() {
        let lines = seen(|| {
            let _request = info_span!(target: "shop", "request", method = "GET", peer = "unix").entered();
            let order = info_span!("order", number = 7, total = tracing::field::Empty);
            let _entered = order.enter();
            info!(target: "shop", step = 1, "begun");
            order.record("total", 3.5);
            order.record("number", 8);
            info!(target: "shop", "paid");
        });
        let spans = "request.method=\"GET\" request.peer=\"unix\"";
        assert_eq!(
            lines,
            [
                format!("INFO shop begun step=1 {spans} order.number=7"),
                format!("INFO shop paid {spans} order.number=8 order.total=3.5"),
            ]
        );
    }

    #[test]
    fn of_two_names_the_nearest_wins() {
        let lines = seen(|| {
            let _outer = info_span!("part", number = 1, depth = 1).entered();
            let _inner = info_span!("part", number = 2).entered();
            info!(target: "shop", "nested");
            info!(target: "shop", { part.number = 3 }, "its own");
        });
        let expected = ["INFO shop nested part.depth=1 part.number=2", "INFO shop its own part.number=3 part.depth=1"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_the_logger_does_not_want_is_not_logged_and_disturbs_nobody() {
        let lines = seen(|| {
            trace!(target: "shop", "above the level");
            error!(target: "quiet", "not wanted");
            let _quiet = info_span!(target: "quiet", "silence", length = 1).entered();
            let _heard = debug_span!("heard", length = 2).entered();
            info!(target: "shop", "wanted");
        });
        assert_eq!(lines, ["INFO shop wanted heard.length=2"]);
    }

    #[test]
    fn other_layers_hear_what_the_logger_does_not_want() {
        struct Counter;

        thread_local! {
            static COUNT: Cell<usize> = const { Cell::new(0) };
        }

        impl<S: Subscriber> Layer<S> for Counter {
            fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
                COUNT.set(COUNT.get() + 1);
            }
        }

        SEEN.take();
        let both = registry().with(layer(facade(|| LevelFilter::Debug))).with(Counter);
        subscriber::with_default(both, || {
            error!(target: "quiet", "not wanted");
            info!(target: "shop", "wanted");
        });
        assert_eq!((COUNT.get(), SEEN.take().len()), (2, 1));
    }

    #[test]
    fn the_hint_is_the_level_of_the_facade() {
        let table: [(fn() -> LevelFilter, _); 3] = [
            (|| LevelFilter::Off, metadata::LevelFilter::OFF),
            (|| LevelFilter::Warn, metadata::LevelFilter::WARN),
            (|| LevelFilter::Trace, metadata::LevelFilter::TRACE),
        ];
        for (max_level, expected) in table {
            let hint = Filter::<tracing_subscriber::Registry>::max_level_hint(&Wanted(facade(max_level)));
            assert_eq!(hint, Some(expected));
        }
    }
}
