//! Keeping passwords out of what is printed.

/// The text without the passwords of the URLs in it.
pub(crate) fn without_secrets(text: &str) -> String {
    without_parameter(&without_userinfo(text))
}

/// `scheme://user:password@host` becomes `scheme://user:***@host`. A password may hold an `@`: the last one before a
/// blank or a quote counts, so that nothing of it is left over.
fn without_userinfo(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = url.find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`')).unwrap_or(url.len());
        let authority = &url[..end];
        rest = url;
        if let Some(host) = authority.rfind('@')
            && let Some(colon) = authority[..host].find(':')
        {
            shown.push_str(&authority[..colon]);
            shown.push_str(":***");
            rest = &url[host..];
        }
    }
    shown.push_str(rest);
    shown
}

/// `…?password=secret&…` becomes `…?password=***&…`.
fn without_parameter(text: &str) -> String {
    const NAME: &str = "password=";
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(NAME) {
        let (before, value) = rest.split_at(at + NAME.len());
        shown.push_str(before);
        shown.push_str("***");
        let end = value.find(|c: char| c.is_whitespace() || matches!(c, '&' | '\'' | '"' | '`')).unwrap_or(value.len());
        rest = &value[end..];
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::without_secrets;

    #[test]
    fn passwords_are_masked_wherever_they_stand() {
        for (text, shown) in [
            ("postgres://app:hunter2@db/shop", "postgres://app:***@db/shop"),
            ("'postgres://app:hunt@er2@db/shop' and more", "'postgres://app:***@db/shop' and more"),
            ("postgres://app:a:b/c?d@db", "postgres://app:***@db"),
            ("postgres://:hunter2@db", "postgres://:***@db"),
            ("postgres://db/shop?user=a&password=hunter2&x=1", "postgres://db/shop?user=a&password=***&x=1"),
            ("a postgres://u:p@h b mysql://u:q@h c", "a postgres://u:***@h b mysql://u:***@h c"),
            ("postgres://app@db/shop", "postgres://app@db/shop"),
            ("sqlite://a:b", "sqlite://a:b"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }
}
