//! A temperature as a thermostat keeps it: in both scales at once, always in step.

/// What may be asked for, in degrees Celsius.
pub(super) const CELSIUS_MIN: f64 = 9.0;
pub(super) const CELSIUS_MAX: f64 = 32.0;

/// What may be asked for, in degrees Fahrenheit.
pub(super) const FAHRENHEIT_MIN: f64 = 50.0;
pub(super) const FAHRENHEIT_MAX: f64 = 90.0;

/// Celsius in steps of a half, Fahrenheit in whole degrees. What is written off its step is kept at the
/// nearest one, and so told to the streams; only the echo of the write has it as it was written. The
/// scale that was not written follows the one that was, so a value on its step stays as it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Temperature {
    half_degrees_celsius: i16,
    degrees_fahrenheit: i16,
}

impl Temperature {
    pub(super) fn from_celsius(celsius: f64) -> Self {
        let half_degrees = (celsius * 2.0).round();
        let fahrenheit = half_degrees / 2.0 * 9.0 / 5.0 + 32.0;
        Self { half_degrees_celsius: half_degrees as i16, degrees_fahrenheit: fahrenheit.round() as i16 }
    }

    pub(super) fn from_fahrenheit(fahrenheit: f64) -> Self {
        let degrees = fahrenheit.round();
        let celsius = (degrees - 32.0) * 5.0 / 9.0;
        Self { half_degrees_celsius: (celsius * 2.0).round() as i16, degrees_fahrenheit: degrees as i16 }
    }

    pub(super) fn celsius(self) -> f64 {
        f64::from(self.half_degrees_celsius) / 2.0
    }

    pub(super) fn fahrenheit(self) -> i16 {
        self.degrees_fahrenheit
    }

    pub(super) fn is_below(self, other: Self) -> bool {
        self.half_degrees_celsius < other.half_degrees_celsius
    }

    /// The temperature half a degree Celsius up or down.
    pub(super) fn stepped(self, up: bool) -> Self {
        Self::from_celsius(self.celsius() + if up { 0.5 } else { -0.5 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scales_stay_in_step() {
        let table = [(22.5, 22.5, 73), (22.3, 22.5, 73), (21.0, 21.0, 70), (9.0, 9.0, 48), (-3.2, -3.0, 27)];
        for (written, celsius, fahrenheit) in table {
            let temperature = Temperature::from_celsius(written);
            assert_eq!((temperature.celsius(), temperature.fahrenheit()), (celsius, fahrenheit), "{written}");
        }
    }

    #[test]
    fn what_was_written_on_its_step_stays() {
        for degrees in 50..=90 {
            let temperature = Temperature::from_fahrenheit(f64::from(degrees));
            assert_eq!(temperature.fahrenheit(), degrees);
            assert_eq!(Temperature::from_fahrenheit(f64::from(degrees) + 0.4), temperature);
            assert!((temperature.celsius() - f64::from(degrees - 32) * 5.0 / 9.0).abs() <= 0.25);
        }
    }
}
