//! Points in time and spans of time, as the outside gives them.

use std::time::{Duration, SystemTime};

use crate::money::Decimal;

/// Seconds since 1970-01-01T00:00:00Z, as block timestamps count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(u64);

impl UnixTime {
    /// A point in time from whole seconds since the epoch.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The time `seconds` later; stays at the end of time rather than wrap.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// The time as RFC 3339 writes it, to the millisecond, as JavaScript does: `2026-01-02T03:04:05.000Z`. Empty for
    /// times beyond the year 9999.
    pub fn to_rfc3339(self) -> String {
        const END_OF_9999: u64 = 253_402_300_799;
        let since = Duration::from_secs(self.0);
        match SystemTime::UNIX_EPOCH.checked_add(since) {
            Some(time) if self.0 <= END_OF_9999 => humantime::format_rfc3339_millis(time).to_string(),
            _ => String::new(),
        }
    }

    /// Reads a time that RFC 3339 writes in UTC with a `Z`, down to the second: what is finer is cut off.
    ///
    /// `None` where the text is no such time.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let time = humantime::parse_rfc3339(text).ok()?;
        // It takes some more than RFC 3339 behind the seconds.
        let is_fraction = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let fraction = text.get("2026-01-02T03:04:05".len()..)?.strip_suffix('Z')?;
        if !fraction.is_empty() && !fraction.strip_prefix('.').is_some_and(is_fraction) {
            return None;
        }
        Some(Self(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()))
    }
}

/// Parses a duration as protobuf's JSON mapping writes it: decimal seconds with the suffix `s` (`10s`, `0.5s`).
///
/// `None` where the text is not of that form, is finer than a nanosecond or exceeds `u64` nanoseconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    const NANOSECOND_DIGITS: u32 = 9;
    let seconds = Decimal::parse(text.strip_suffix('s')?).ok()?;
    let nanoseconds = seconds.to_units(NANOSECOND_DIGITS).ok()?;
    Some(Duration::from_nanos(u64::try_from(nanoseconds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_decimal_seconds() {
        assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_duration("0.25s"), Some(Duration::from_millis(250)));
        for wrong in ["", "s", "10", "10ms", "-1s", "1h", ".5s", "1.0000000001s", "99999999999999999999s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_written_as_javascript_writes_them() {
        let time = UnixTime::from_secs(1_767_323_045);
        assert_eq!(time.to_rfc3339(), "2026-01-02T03:04:05.000Z");
        for text in ["2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.999Z"] {
            assert_eq!(UnixTime::from_rfc3339(text), Some(time), "{text}");
        }
        for wrong in [
            "",
            "2026-01-02T03:04:05ZZ",
            "2026-01-02T03:04:05.Z",
            "1767323045",
            "2026-01-02",
            "2026-01-02T03:04:05",
            "2026-02-30T00:00:00Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(UnixTime::from_rfc3339(wrong), None, "{wrong}");
        }
        for late in [253_402_300_800, u64::MAX] {
            assert_eq!(UnixTime::from_secs(late).to_rfc3339(), "");
        }
    }

    #[test]
    fn time_does_not_wrap() {
        assert_eq!(UnixTime::from_secs(u64::MAX).plus(1), UnixTime::from_secs(u64::MAX));
    }
}
