//! Figures that follow from what a round measured.

use super::Round;

/// Bytes of a GB, as in all figures per GB.
const GB: f64 = 1e9;

impl Round {
    /// Failed requests of every kind.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Whether its figures are of less than was asked for: something failed, was
    /// never sent, or was dropped and sent again.
    #[must_use]
    pub fn flawed(&self) -> bool {
        self.failures() > 0 || self.unsent > 0 || self.resent > 0
    }

    /// Successful requests per second; none for an empty round.
    #[must_use]
    pub fn requests_per_second(&self) -> Option<f64> {
        ratio(self.requests as f64, self.seconds)
    }

    /// Body bytes per second; none for an empty round.
    #[must_use]
    pub fn bytes_per_second(&self) -> Option<f64> {
        ratio(self.bytes as f64, self.seconds)
    }

    /// CPU microseconds the server spent per successful request.
    #[must_use]
    pub fn server_us_per_request(&self) -> Option<f64> {
        ratio(self.server?.cpu_seconds * 1e6, self.requests as f64)
    }

    /// CPU seconds the server spent per 1,000 successful requests.
    #[must_use]
    pub fn server_seconds_per_thousand(&self) -> Option<f64> {
        ratio(self.server?.cpu_seconds * 1e3, self.requests as f64)
    }

    /// CPU seconds the server spent per GB (10^9 bytes) of bodies.
    #[must_use]
    pub fn server_seconds_per_gb(&self) -> Option<f64> {
        ratio(self.server?.cpu_seconds * GB, self.bytes as f64)
    }

    /// CPU microseconds the client spent per successful request.
    #[must_use]
    pub fn client_us_per_request(&self) -> Option<f64> {
        ratio(self.client_cpu_seconds * 1e6, self.requests as f64)
    }

    /// Wall time of a phase, seconds.
    #[must_use]
    pub fn phase_seconds(&self, name: &str) -> Option<f64> {
        self.phases
            .iter()
            .find(|p| p.name == name)
            .map(|p| p.seconds)
    }
}

/// `a / b`; none when that is no number worth printing.
#[must_use]
pub fn ratio(a: f64, b: f64) -> Option<f64> {
    let value = a / b;
    (b != 0.0 && value.is_finite()).then_some(value)
}

/// The middle value, or the mean of the two middle ones; none of nothing.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some((values.get(middle - 1)? + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn ratios_never_divide_by_nothing() {
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!(ratio(0.0, 0.0), None);
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
    }
}
