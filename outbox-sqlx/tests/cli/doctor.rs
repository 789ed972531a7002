//! What `outbox doctor` finds: each problem is made for real.

mod consumers;
mod pooler;
mod server;
mod sqlite;
mod tables;

use serde_json::Value;

use crate::support::{Bed, Ended, parsed};

/// What one examination said.
#[derive(Debug)]
struct Examined {
    code: i32,
    findings: Vec<Value>,
}

async fn examine(bed: &Bed, arguments: &[&str]) -> Examined {
    let Ended { code, out, err } = bed.outbox(&[&["doctor", "--json"], arguments].concat()).await;
    assert_eq!(err, "", "{out}");
    let findings: Vec<Value> = out.lines().map(parsed).collect();
    for finding in &findings {
        assert!(!finding["message"].as_str().expect("a message").is_empty());
        assert_eq!(finding["advice"].is_null(), finding["level"] == "ok", "advice where it is wanted: {finding}");
    }
    Examined { code, findings }
}

impl Examined {
    /// The findings of one check: level and message.
    fn of(&self, check: &str) -> Vec<(&str, &str)> {
        let found = self.findings.iter().filter(|finding| finding["check"] == check);
        let found: Vec<_> = found
            .map(|finding| (finding["level"].as_str().expect("level"), finding["message"].as_str().expect("message")))
            .collect();
        assert!(!found.is_empty(), "{check} is missing: {self:?}");
        found
    }

    /// The one finding of a check says all that, and the exit code fits.
    fn assert_found(&self, check: &str, level: &str, says: &[&str]) {
        let found = self.of(check);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, level, "{found:?}");
        for word in says {
            assert!(found[0].1.contains(word), "{word:?} is not in {found:?}");
        }
        let problems = self.findings.iter().any(|finding| finding["level"] == "problem");
        assert_eq!(self.code, if problems { 3 } else { 0 }, "{self:?}");
        if level == "problem" {
            assert_eq!(self.code, 3);
        }
    }

    fn assert_fine(&self) {
        assert!(self.findings.iter().all(|finding| finding["level"] == "ok"), "{self:#?}");
        assert_eq!(self.code, 0);
    }
}
