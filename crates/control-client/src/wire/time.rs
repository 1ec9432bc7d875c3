//! RFC 3339 times as Go writes them. Year 1 is Go's zero time and means "none".

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serializer};

/// Seconds from year 1 to 1970.
const GO_ZERO: i64 = -62_135_596_800;

/// Reads `2026-11-24T06:37:31.796401444Z`, with `Z` or an offset, `T` or a blank, and any number of digits after the
/// point. Years 1 to 9999.
#[must_use]
pub fn parse_time(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let at = |index: usize, allowed: &[u8]| text.as_bytes().get(index).is_some_and(|byte| allowed.contains(byte));
    if !(at(4, b"-") && at(7, b"-") && at(10, b"Tt ") && at(13, b":") && at(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !((1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let (nanos, zone) = match rest.strip_prefix('.') {
        Some(fraction) => {
            let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
            let digits = fraction.get(..length.min(9))?;
            if digits.is_empty() {
                return None;
            }
            (format!("{digits:0<9}").parse::<u32>().ok()?, fraction.get(length..)?)
        }
        None => (0, rest),
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)?
    } else {
        UNIX_EPOCH.checked_add(whole)?
    };
    base.checked_add(Duration::from_nanos(nanos.into()))
}

fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours <= 23 && minutes <= 59).then(|| sign * (i64::from(hours) * 3600 + i64::from(minutes) * 60))
}

/// Writes the time in UTC with the digits it needs.
#[must_use]
pub fn format_time(time: SystemTime) -> String {
    let (mut seconds, mut nanos) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            (
                -i64::try_from(before.as_secs()).unwrap_or(i64::MAX),
                before.subsec_nanos(),
            )
        }
    };
    if time < UNIX_EPOCH && nanos > 0 {
        seconds -= 1;
        nanos = 1_000_000_000 - nanos;
    }
    let seconds = seconds.clamp(GO_ZERO, 253_402_300_799);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    );
    if nanos > 0 {
        let digits = format!("{nanos:09}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Days since 1970 of a date in the proleptic Gregorian calendar; the year is counted from March, so that the leap day
/// comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Field form of an optional time: absent, `null`, `""` and year 1 are all "none".
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    if text.is_empty() || text.starts_with("0001-01-01T00:00:00") {
        return Ok(None);
    }
    parse_time(&text)
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
}

/// As [`deserialize`], but year 1 stays a time of its own: in a patch it differs from an absent field.
pub(super) fn keep_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    parse_time(&text)
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
}

/// "None" is written as Go's zero time, for fields that Go does not leave out.
pub(super) fn serialize<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_str(&format_time(*time)),
        None => serializer.serialize_str("0001-01-01T00:00:00Z"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn go_times_are_read() {
        let epoch = |seconds: u64, nanos: u32| UNIX_EPOCH + Duration::new(seconds, nanos);
        assert_eq!(parse_time("1970-01-01T00:02:03Z"), Some(epoch(123, 0)));
        assert_eq!(
            parse_time("2026-11-24T06:37:31.796401444Z"),
            Some(epoch(1_795_502_251, 796_401_444))
        );
        assert_eq!(
            parse_time("2026-11-24T07:37:31.5+01:00"),
            Some(epoch(1_795_502_251, 500_000_000))
        );
        assert_eq!(parse_time("2024-02-29T00:00:00Z"), Some(epoch(1_709_164_800, 0)));
        for bad in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-11-24T06:37:31",
            "2026-11-24T06:37:31.Z",
            "ää26-11-24T06:37:31Z",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn times_come_back(seconds in -62_135_596_799i64..253_402_300_799, nanos in 0u32..1_000_000_000) {
            let whole = Duration::from_secs(seconds.unsigned_abs());
            let time = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole } + Duration::from_nanos(nanos.into());
            prop_assert_eq!(parse_time(&format_time(time)), Some(time));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = parse_time(&text);
        }
    }
}
