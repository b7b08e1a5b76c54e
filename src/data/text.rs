//! Text of labels that may not be UTF-8: tools on Windows write the code page of their machine.

use std::borrow::Cow;

use super::problems::{ProblemKind, Problems};

/// What Windows-1252 has where Latin-1 has control characters, from 0x80 on.
const FROM_0X80: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}',
    '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// The text of bytes; those that are not UTF-8 are read as Windows-1252, and counted with the first word that has some.
pub(super) fn decode<'a>(bytes: &'a [u8], place: &str, problems: &mut Problems) -> Cow<'a, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let (mut out, mut first) = (String::with_capacity(bytes.len()), None);
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            first.get_or_insert(out.len());
        }
        out.extend(chunk.invalid().iter().map(|byte| windows_1252(*byte)));
    }
    problems.add(ProblemKind::NotUtf8, || format!("{place}: {:?}", word(&out, first.unwrap_or(0))));
    Cow::Owned(out)
}

fn windows_1252(byte: u8) -> char {
    byte.checked_sub(0x80).and_then(|at| FROM_0X80.get(usize::from(at)).copied()).unwrap_or(char::from(byte))
}

/// What stands around a character, up to the marks by which labels are divided.
fn word(text: &str, at: usize) -> &str {
    let ends = |c: char| c.is_control() || matches!(c, '"' | '\'' | ',' | '<' | '>' | ':' | '[' | ']');
    let (before, behind) = text.split_at(at);
    let start =
        before.rfind(ends).map_or(0, |mark| mark + before[mark..].chars().next().map_or(0, char::len_utf8));
    let end = at + behind.find(ends).unwrap_or(behind.len());
    text[start..end].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_utf8_are_read_and_told() {
        let mut problems = Problems::default();
        assert_eq!(decode("carré €".as_bytes(), "x", &mut problems), "carré €");
        assert!(problems.is_empty());
        assert_eq!(
            decode(b"name: 'a carr\xe9'\n\x80 \x81", "x.txt", &mut problems),
            "name: 'a carré'\n€ \u{81}"
        );
        // Where most is UTF-8, that stays as it is.
        assert_eq!(decode(b"\xc3\xa9\xe9", "y.txt", &mut problems), "éé");
        assert_eq!(problems.count(ProblemKind::NotUtf8), 2);
        let told = problems.to_string();
        assert!(told.contains("x.txt: \"a carré\"; y.txt: \"éé\""), "{told}");
    }
}
