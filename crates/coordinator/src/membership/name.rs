//! From what a node calls itself to one label that is its own in the mesh.

const MAX_LABEL: usize = 63;

/// A DNS label from a host name: lower case, everything before the first dot is not special, anything that a label may
/// not hold becomes a hyphen or goes. Never empty.
pub(crate) fn label(hostname: &str) -> String {
    let mut label = String::new();
    for c in hostname.chars() {
        match c {
            'a'..='z' | '0'..='9' => label.push(c),
            'A'..='Z' => label.push(c.to_ascii_lowercase()),
            '-' | '_' | '.' | ' ' if !label.is_empty() && !label.ends_with('-') => label.push('-'),
            _ => {}
        }
        if label.len() == MAX_LABEL {
            break;
        }
    }
    let label = label.trim_end_matches('-');
    if label.is_empty() {
        "node".to_owned()
    } else {
        label.to_owned()
    }
}

/// `label`, or `label-1`, `label-2`, … when that is taken.
pub(crate) fn unique(label: &str, is_taken: impl Fn(&str) -> bool) -> String {
    if !is_taken(label) {
        return label.to_owned();
    }
    (1u32..)
        .map(|number| {
            let suffix = format!("-{number}");
            let room = MAX_LABEL.saturating_sub(suffix.len());
            let stem = label.get(..room.min(label.len())).unwrap_or(label);
            format!("{}{suffix}", stem.trim_end_matches('-'))
        })
        .find(|candidate| !is_taken(candidate))
        .unwrap_or_else(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels() {
        for (hostname, expected) in [
            ("worker-1", "worker-1"),
            ("Alice's MacBook Pro", "alices-macbook-pro"),
            ("host.example.com", "host-example-com"),
            ("--x--", "x"),
            ("", "node"),
            ("日本", "node"),
        ] {
            assert_eq!(label(hostname), expected, "{hostname}");
        }
    }

    #[test]
    fn collisions_are_numbered() {
        let taken = ["a", "a-1"];
        assert_eq!(unique("a", |name| taken.contains(&name)), "a-2");
        let long = "x".repeat(63);
        let other = unique(&long, |name| name == long);
        assert_eq!(other, format!("{}-1", "x".repeat(61)));
    }

    proptest! {
        #[test]
        fn always_a_valid_label(hostname in any::<String>()) {
            let label = label(&hostname);
            prop_assert!((1..=63).contains(&label.len()));
            prop_assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!label.starts_with('-') && !label.ends_with('-'));
        }
    }
}
