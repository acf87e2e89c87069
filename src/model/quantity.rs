//! Kubernetes quantities (`500m`, `1Gi`), read exactly as integers.
//!
//! Source of the format: k8s.io/apimachinery/pkg/api/resource/quantity.go.

/// Reads a quantity as thousandths of its unit, rounded up (as `Quantity.MilliValue` does).
/// `None` if it isn't one, is negative, or does not fit.
pub fn parse_milli(text: &str) -> Option<u64> {
    parse_scaled(text, 1000)
}

/// Reads a quantity as whole units, rounded up (as `Quantity.Value` does).
pub fn parse_units(text: &str) -> Option<u64> {
    parse_scaled(text, 1)
}

fn parse_scaled(text: &str, scale: u128) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (numerator, denominator) = multiplier(suffix)?;
    let denominator = denominator.checked_mul(10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let scaled = digits.checked_mul(numerator)?.checked_mul(scale)?;
    u64::try_from(scaled.div_ceil(denominator)).ok()
}

/// What a suffix multiplies by, as numerator and denominator.
fn multiplier(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (10u128.pow(15), 1),
        "E" => (10u128.pow(18), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10u128.checked_pow(exponent.unsigned_abs())?;
            if exponent >= 0 { (power, 1) } else { (1, power) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, milli) in
            [("1", 1000), ("500m", 500), ("0.1", 100), ("1.5", 1500), ("100u", 1), ("2e3", 2_000_000), (".5", 500)]
        {
            assert_eq!(parse_milli(text), Some(milli), "{text}");
        }
        for (text, units) in [("1Gi", 1 << 30), ("128Mi", 128 << 20), ("1k", 1000), ("1500m", 2), ("1E", 10u64.pow(18))]
        {
            assert_eq!(parse_units(text), Some(units), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", ".", "-1", "1.2.3", "1gi", "Gi", "1 Gi", "e3x", "99999999999999999999Ei"] {
            assert_eq!(parse_units(text), None, "{text}");
        }
    }
}
