//! The zoo's pipeline.config: only the class count is touched, the rest is the source's text.

use serde::Serialize;

use crate::error::{Error, Result};

/// The loss that the classes of a single-stage model were trained with (losses.proto, `ClassificationLoss`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClassLoss {
    /// γ of the focal loss; 0 is the plain cross entropy of sigmoids.
    pub gamma: f64,
    /// α of the focal loss, the weight of positives where negatives have 1−α; none where both weigh the same.
    pub alpha: Option<f64>,
}

impl ClassLoss {
    /// What most of the zoo's single-stage models were trained with, `ssd_mobilenet_v2_320x320_coco17_tpu-8.config` among them.
    pub const USUAL: Self = Self { gamma: 2.0, alpha: Some(0.75) };
}

/// The first `classification_loss` of the text, where it is one of sigmoids; `name` is the file's name in errors.
///
/// Errors: [`Error::Data`] for numbers that no such loss has.
pub fn class_loss(text: &str, name: &str) -> Result<Option<ClassLoss>> {
    let words = words(text);
    let mut rest = words.iter().skip_while(|word| **word != "classification_loss").skip(1);
    if rest.next() != Some(&"{") {
        return Ok(None);
    }
    match rest.next() {
        Some(&"weighted_sigmoid") => return Ok(Some(ClassLoss { gamma: 0.0, alpha: None })),
        Some(&"weighted_sigmoid_focal") => {}
        _ => return Ok(None),
    }
    // The proto's default of γ; α has none.
    let mut loss = ClassLoss { gamma: 2.0, alpha: None };
    if rest.next() == Some(&"{") {
        while let (Some(key), Some(value)) = (rest.next().filter(|word| **word != "}"), rest.next()) {
            let most = match *key {
                "gamma" => 10.0,
                "alpha" => 1.0,
                _ => continue,
            };
            let number = value.parse::<f64>().ok().filter(|number| (0.0..=most).contains(number));
            let number = number.ok_or_else(|| {
                Error::Data(format!("{name}: {key} of the focal loss is {value}, expected 0 to {most}"))
            })?;
            if *key == "gamma" { loss.gamma = number } else { loss.alpha = Some(number) }
        }
    }
    Ok(Some(loss))
}

/// Keys, values and braces of protobuf's text format, without comments.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let ends = |c: char| c.is_whitespace() || matches!(c, ':' | '{' | '}' | '#' | '"' | '\'' | ',' | ';');
        let length = match first {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            // No value that matters here is quoted; what is may hold anything.
            '"' | '\'' => rest[1..].find(['\n', first]).map_or(rest.len(), |end| end + 2),
            first if ends(first) => first.len_utf8(),
            _ => rest.find(ends).unwrap_or(rest.len()),
        };
        let (word, behind) = rest.split_at(length);
        if matches!(first, '{' | '}') || !ends(first) {
            words.push(word);
        }
        rest = behind;
    }
    words
}

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
    fn the_loss_of_the_classes_is_read_in_every_form() {
        let focal = |gamma, alpha| Some(ClassLoss { gamma, alpha });
        for (text, expected) in [
            (
                "loss {\n classification_loss {\n weighted_sigmoid_focal {\n gamma: 1.5\n alpha: 0.25\n}}}",
                focal(1.5, Some(0.25)),
            ),
            ("classification_loss{weighted_sigmoid_focal{alpha:.75 # gamma: 3\n}}", focal(2.0, Some(0.75))),
            ("classification_loss: { weighted_sigmoid_focal: { gamma: 1, } }", focal(1.0, None)),
            ("classification_loss { weighted_sigmoid_focal }", focal(2.0, None)),
            ("classification_loss { weighted_sigmoid { } }", focal(0.0, None)),
            ("note: \"classification_loss {\" # classification_loss { weighted_sigmoid {} }", None),
            ("classification_loss { weighted_softmax { logit_scale: 1 } }", None),
            ("second_stage_classification_loss { weighted_sigmoid { } }", None),
            ("classification_loss", None),
            ("", None),
        ] {
            assert_eq!(class_loss(text, "x").unwrap(), expected, "{text}");
        }
        for bad in ["gamma: -1", "gamma: many", "alpha: 2", "gamma: nan", "gamma: 1e9"] {
            let text = format!("classification_loss {{ weighted_sigmoid_focal {{ {bad} }} }}");
            let error = class_loss(&text, "p.config").unwrap_err().to_string();
            assert!(error.starts_with("p.config: ") && error.contains("expected 0 to"), "{error}");
        }
        for cut in 0..40 {
            let _ = class_loss(
                &"classification_loss { weighted_sigmoid_focal { g: 'é\n\"ü"
                    .chars()
                    .take(cut)
                    .collect::<String>(),
                "x",
            );
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
