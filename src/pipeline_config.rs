//! The zoo's pipeline.config: only the class count is touched, the rest is the source's text.

/// The text with every `num_classes` raised; comments and layout stay.
pub fn with_classes(text: &str, classes: usize) -> String {
    let mut result = String::with_capacity(text.len() + 8);
    for line in text.split_inclusive('\n') {
        let code = line.split('#').next().unwrap_or_default();
        match code.find("num_classes") {
            Some(at) if is_key(code, at) => {
                result.push_str(&with_value(line, at + "num_classes".len(), classes))
            }
            _ => result.push_str(line),
        }
    }
    result
}

/// The first `num_classes` of the text.
pub fn classes(text: &str) -> Option<u32> {
    let after_key = |line: &str| {
        let code = line.split('#').next().unwrap_or_default();
        let at = code.find("num_classes").filter(|&at| is_key(code, at))?;
        code[at + "num_classes".len()..]
            .trim_start_matches([':', ' ', '\t'])
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    text.lines().find_map(after_key)
}

fn is_key(code: &str, at: usize) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let before = code[..at].chars().next_back();
    let after = code[at + "num_classes".len()..].chars().next();
    !before.is_some_and(word) && !after.is_some_and(word)
}

fn with_value(line: &str, after_key: usize, classes: usize) -> String {
    let (head, rest) = line.split_at(after_key);
    let Some(start) = rest.find(|c: char| c.is_ascii_digit()) else { return line.to_owned() };
    let digits = rest[start..].chars().take_while(char::is_ascii_digit).count();
    format!("{head}{}{classes}{}", &rest[..start], &rest[start + digits..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_class_count_changes() {
        let cases = [
            ("model {\n  ssd {\n    num_classes: 90\n", "model {\n  ssd {\n    num_classes: 92\n"),
            ("num_classes:1 # num_classes: 3", "num_classes:92 # num_classes: 3"),
            ("# num_classes: 90\n", "# num_classes: 90\n"),
            ("max_num_classes: 90\n", "max_num_classes: 90\n"),
            ("ssd { num_classes: 90 other: 5 }", "ssd { num_classes: 92 other: 5 }"),
        ];
        for (text, expected) in cases {
            assert_eq!(with_classes(text, 92), expected);
        }
    }

    #[test]
    fn the_class_count_is_read_where_it_is_set() {
        for (text, expected) in [
            ("model {\n  ssd {\n    num_classes: 90\n", Some(90)),
            ("# num_classes: 3\nnum_classes:1 # classes", Some(1)),
            ("max_num_classes: 90\n", None),
            ("ssd { num_classes: 37 other: 5 }", Some(37)),
            ("num_classes: many", None),
        ] {
            assert_eq!(classes(text), expected, "{text}");
        }
    }
}
