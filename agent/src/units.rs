//! Numbers with their units, as the text report, the findings and the live lines print them.

/// A duration: `412 µs`, `41 ms`, `1.9 s`, `1m12s`, `2h05m`.
pub fn duration(ns: u64) -> String {
    const US: u64 = 1_000;
    const MS: u64 = 1_000 * US;
    const S: u64 = 1_000 * MS;
    match ns {
        0 => "0 s".to_owned(),
        1..US => format!("{ns} ns"),
        // The bounds below are where rounding would reach the next unit.
        US..999_500 => format!("{} µs", rounded(ns, US)),
        999_500..9_950_000 => {
            let tenths = rounded(ns, MS / 10);
            format!("{}.{} ms", tenths / 10, tenths % 10)
        }
        9_950_000..999_500_000 => format!("{} ms", rounded(ns, MS)),
        999_500_000..59_950_000_000 => {
            let tenths = rounded(ns, S / 10);
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        _ => {
            let seconds = rounded(ns, S);
            if seconds < 3600 {
                format!("{}m{:02}s", seconds / 60, seconds % 60)
            } else {
                let minutes = rounded(ns, 60 * S);
                format!("{}h{:02}m", minutes / 60, minutes % 60)
            }
        }
    }
}

/// A moment since the start: `0:12`, `1:02:03`.
pub fn clock(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours == 0 { format!("{minutes}:{seconds:02}") } else { format!("{hours}:{minutes:02}:{seconds:02}") }
}

/// A size in decimal units: `812 B`, `64.1 MB`, `210 MB`.
pub fn bytes(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut scale: u64 = 1000;
    for unit in ["kB", "MB", "GB", "TB", "PB"] {
        if bytes < 99_950 * (scale / 1000) {
            let tenths = rounded(bytes, scale / 10);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        if rounded(bytes, scale) < 1000 {
            return format!("{} {unit}", rounded(bytes, scale));
        }
        scale *= 1000;
    }
    let tenths = rounded(bytes, scale / 10);
    format!("{}.{} EB", tenths / 10, tenths % 10)
}

/// `part` of `whole` in percent; absent when there is no whole.
pub fn percent(part: u64, whole: u64) -> Option<String> {
    (whole > 0).then(|| format!("{}%", (u128::from(part) * 200 / u128::from(whole)).div_ceil(2)))
}

/// How many processors `cpu_ns` kept busy during `wall_ns`: `3.4`.
pub fn cores(cpu_ns: u64, wall_ns: u64) -> Option<String> {
    (wall_ns > 0).then(|| {
        let tenths = (u128::from(cpu_ns) * 20 / u128::from(wall_ns)).div_ceil(2);
        format!("{}.{}", tenths / 10, tenths % 10)
    })
}

/// `1 module`, `2 modules`.
pub fn counted(count: u64, singular: &str, plural: &str) -> String {
    format!("{count} {}", if count == 1 { singular } else { plural })
}

/// Division to the nearest, halves up.
fn rounded(value: u64, unit: u64) -> u64 {
    value / unit + u64::from(value % unit >= unit.div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_change_unit_where_they_round() {
        let text = |ns| duration(ns);
        assert_eq!(text(0), "0 s");
        assert_eq!(text(999), "999 ns");
        assert_eq!(text(412_400), "412 µs");
        assert_eq!(text(999_499), "999 µs");
        assert_eq!(text(999_500), "1.0 ms");
        assert_eq!(text(9_949_999), "9.9 ms");
        assert_eq!(text(9_950_000), "10 ms");
        assert_eq!(text(41_200_000), "41 ms");
        assert_eq!(text(999_499_999), "999 ms");
        assert_eq!(text(999_500_000), "1.0 s");
        assert_eq!(text(1_940_000_000), "1.9 s");
        assert_eq!(text(59_949_999_999), "59.9 s");
        assert_eq!(text(59_950_000_000), "1m00s");
        assert_eq!(text(72_400_000_000), "1m12s");
        assert_eq!(text(3_599_499_999_999), "59m59s");
        assert_eq!(text(3_599_500_000_000), "1h00m");
        assert_eq!(text(7_500_000_000_000), "2h05m");
        assert_eq!(text(u64::MAX), "5124095h35m");
    }

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.0 kB");
        assert_eq!(bytes(64_100_000), "64.1 MB");
        assert_eq!(bytes(99_949_999), "99.9 MB");
        assert_eq!(bytes(99_950_000), "100 MB");
        assert_eq!(bytes(210_400_000), "210 MB");
        assert_eq!(bytes(999_499_999), "999 MB");
        assert_eq!(bytes(999_500_000), "1.0 GB");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }

    #[test]
    fn ratios_round_to_the_nearest_and_need_a_whole() {
        assert_eq!(percent(45, 100).as_deref(), Some("45%"));
        assert_eq!(percent(1, 3).as_deref(), Some("33%"));
        assert_eq!(percent(2, 3).as_deref(), Some("67%"));
        assert_eq!(percent(4_100, 2_400_000).as_deref(), Some("0%"));
        assert_eq!(percent(u64::MAX, u64::MAX).as_deref(), Some("100%"));
        assert_eq!(percent(1, 0), None);
        assert_eq!(cores(340, 100).as_deref(), Some("3.4"));
        assert_eq!(cores(344, 100).as_deref(), Some("3.4"));
        assert_eq!(cores(346, 100).as_deref(), Some("3.5"));
        assert_eq!(cores(1, 0), None);
    }

    #[test]
    fn moments_have_minutes_and_seconds() {
        assert_eq!(clock(12_900_000_000), "0:12");
        assert_eq!(clock(3_723_000_000_000), "1:02:03");
    }
}
