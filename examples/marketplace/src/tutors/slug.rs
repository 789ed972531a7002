//! Slugs: a tutor's name as it stands in addresses.

use std::collections::HashSet;

/// As long as the original's column.
const MAX_BYTES: usize = 100;
/// A hyphen and the digits of any 64-bit number fit behind a base.
const MAX_BASE_BYTES: usize = MAX_BYTES - 20;
/// For names of which nothing can be spelt in ASCII.
const FALLBACK: &str = "tutor";

/// The slug a name would like to have: `Иван Петров` → `ivan-petrov`.
pub(super) fn base(full_name: &str) -> String {
    let mut slug = slug::slugify(full_name);
    slug.truncate(MAX_BASE_BYTES);
    slug.truncate(slug.trim_end_matches('-').len());
    if slug.is_empty() { FALLBACK.to_owned() } else { slug }
}

/// The first of `base`, `base-1`, `base-2` … that is not taken.
pub(super) fn first_free(base: &str, taken: &HashSet<String>) -> String {
    if !taken.contains(base) {
        return base.to_owned();
    }
    let numbered = (1..=taken.len() as u64).map(|n| format!("{base}-{n}"));
    // Of more candidates than taken slugs one is free.
    numbered.into_iter().find(|slug| !taken.contains(slug)).unwrap_or_else(|| format!("{base}-{}", taken.len() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt_in_ascii() {
        let cases = [
            ("Иван Петров", "ivan-petrov"),
            ("José Núñez", "jose-nunez"),
            ("…", "tutor"),
            ("", "tutor"),
            ("李小龙", "li-xiao-long"),
        ];
        for (name, slug) in cases {
            assert_eq!(base(name), slug);
        }
        let long = base(&"ab ".repeat(60));
        assert!(long.len() <= MAX_BASE_BYTES && !long.ends_with('-'), "{long}");
    }

    #[test]
    fn a_clash_gets_the_first_free_number() {
        let taken: HashSet<String> = ["anna", "anna-1", "anna-3", "anna-lee"].map(str::to_owned).into();
        assert_eq!(first_free("anna", &taken), "anna-2");
        assert_eq!(first_free("ivan", &taken), "ivan");
        assert_eq!(first_free("tutor", &["tutor".to_owned()].into()), "tutor-1");
    }
}
