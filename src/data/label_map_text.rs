//! The text form of a label map: protobuf text format, as much of it as `StringIntLabelMap` needs.
//!
//! Fields other than `id`, `name` and `display_name` (`keypoints`, `ancestor_ids`, …) are checked for their form and
//! otherwise left alone; the file's text is kept whole by [`super::LabelMap`].

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::CharIndices;

use super::label_map::Item;

const FIELDS: [&str; 5] = ["keypoints", "ancestor_ids", "descendant_ids", "frequency", "instance_count"];

/// An error: `line: what is wrong`.
type Parsed<T> = Result<T, String>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Mark(char),
}

/// Parses a label map; an error starts with the line.
pub(super) fn parse(text: &str) -> Parsed<Vec<Item>> {
    let tokens = tokens(text.strip_prefix('\u{feff}').unwrap_or(text))?;
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let mut items = Vec::new();
    let mut ids: HashMap<u32, usize> = HashMap::new();
    let mut names: HashMap<String, usize> = HashMap::new();
    while let Some((line, token)) = parser.next() {
        match token {
            Token::Word(word) if word == "item" => {}
            Token::Word(word) if matches!(word.as_str(), "id" | "name" | "display_name") => {
                return Err(format!(
                    "{line}: {word:?} stands outside an item; write item {{ id: N name: 'NAME' }}"
                ));
            }
            Token::Mark('}' | '>') => return Err(format!("{line}: a closing brace that closes no item")),
            other => return Err(format!("{line}: got {}, expected item {{", shown(other))),
        }
        let item = parser.item(line)?;
        if let Some(first) = ids.insert(item.id, line) {
            return Err(format!("{line}: id {} is used twice, first in line {first}", item.id));
        }
        if let Some(first) = names.insert(item.name.clone(), line) {
            return Err(format!("{line}: name {:?} is used twice, first in line {first}", item.name));
        }
        items.push(item);
    }
    Ok(items)
}

/// A string as the text format writes it.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\{:03o}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<(usize, &'a Token)> {
        let (line, token) = self.tokens.get(self.at)?;
        self.at += 1;
        Some((*line, token))
    }

    fn take(&mut self, mark: char) -> bool {
        let found = matches!(self.tokens.get(self.at), Some((_, Token::Mark(m))) if *m == mark);
        self.at += usize::from(found);
        found
    }

    /// The opening brace of a message; gives the closing one.
    fn open(&mut self, line: usize, what: &str) -> Parsed<char> {
        self.take(':');
        if self.take('{') {
            Ok('}')
        } else if self.take('<') {
            Ok('>')
        } else {
            Err(format!("{line}: {what} is not followed by {{"))
        }
    }

    fn item(&mut self, start: usize) -> Parsed<Item> {
        let close = self.open(start, "item")?;
        let (mut id, mut name, mut display_name) = (None, None, None);
        loop {
            if self.take(close) {
                break;
            }
            let Some((line, token)) = self.next() else {
                return Err(format!("{start}: this item is not closed"));
            };
            let Token::Word(field) = token else {
                return Err(format!("{line}: got {}, expected a field of an item", shown(token)));
            };
            let twice = match field.as_str() {
                "item" => {
                    return Err(format!(
                        "{line}: an item inside the item of line {start}; close that one with }} first"
                    ));
                }
                "id" => id.replace(self.id(line)?).is_some(),
                "name" => name.replace(self.text(line, field)?).is_some(),
                "display_name" => display_name.replace(self.text(line, field)?).is_some(),
                other if FIELDS.contains(&other) => {
                    self.skip_value(line, 0)?;
                    false
                }
                other => {
                    return Err(format!(
                        "{line}: an item has no field {other:?}; it has id, name, display_name"
                    ));
                }
            };
            if twice {
                return Err(format!("{line}: a second {field} in the item of line {start}"));
            }
            let _ = self.take(',') || self.take(';');
        }
        let id = id.ok_or_else(|| format!("{start}: this item has no id"))?;
        // Hand-made maps with display names alone exist, and matching needs a name.
        let name = name
            .or_else(|| display_name.clone())
            .ok_or_else(|| format!("{start}: the item with id {id} has no name"))?;
        Ok(Item { id, name, display_name })
    }

    fn id(&mut self, line: usize) -> Parsed<u32> {
        if !self.take(':') {
            return Err(format!("{line}: id is not followed by a colon"));
        }
        let value = match self.next() {
            Some((_, Token::Word(word))) => word.as_str(),
            _ => "nothing",
        };
        let parsed = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => value.parse().ok(),
        };
        match parsed {
            Some(0) => Err(format!("{line}: id 0 is the background; ids start at 1")),
            Some(id) if id <= i32::MAX as u32 => Ok(id),
            _ => Err(format!("{line}: got id {value}, expected a whole number from 1 up")),
        }
    }

    fn text(&mut self, line: usize, field: &str) -> Parsed<String> {
        if !self.take(':') {
            return Err(format!("{line}: {field} is not followed by a colon"));
        }
        let mut out = match self.next() {
            Some((_, Token::Text(text))) => text.clone(),
            other => {
                let got = other.map_or("the end of the file".to_owned(), |(_, token)| shown(token));
                return Err(format!("{line}: got {field} {got}, expected a string in quotes"));
            }
        };
        while let Some((_, Token::Text(more))) = self.tokens.get(self.at) {
            out.push_str(more);
            self.at += 1;
        }
        Ok(out)
    }

    fn skip_value(&mut self, line: usize, depth: usize) -> Parsed<()> {
        if depth > 8 {
            return Err(format!("{line}: fields are nested too deeply"));
        }
        let colon = self.take(':');
        match self.tokens.get(self.at) {
            Some((_, Token::Mark('{' | '<'))) => {
                let close = self.open(line, "the field")?;
                while !self.take(close) {
                    match self.next() {
                        Some((line, Token::Word(_))) => self.skip_value(line, depth + 1)?,
                        Some((line, token)) => {
                            return Err(format!("{line}: got {}, expected a field", shown(token)));
                        }
                        None => return Err(format!("{line}: this field is not closed")),
                    }
                    let _ = self.take(',') || self.take(';');
                }
                Ok(())
            }
            Some((_, Token::Mark('['))) if colon => {
                while let Some((_, token)) = self.next() {
                    if *token == Token::Mark(']') {
                        return Ok(());
                    }
                }
                Err(format!("{line}: this list is not closed"))
            }
            Some((_, Token::Word(_) | Token::Text(_))) if colon => {
                self.at += 1;
                while let Some((_, Token::Text(_))) = self.tokens.get(self.at) {
                    self.at += 1;
                }
                Ok(())
            }
            _ => Err(format!("{line}: a field without a value")),
        }
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("{word:?}"),
        Token::Text(text) => format!("the string {text:?}"),
        Token::Mark(mark) => format!("{mark:?}"),
    }
}

fn tokens(text: &str) -> Parsed<Vec<(usize, Token)>> {
    let mut out = Vec::new();
    let mut line = 1;
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        match c {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            '#' => while chars.next_if(|(_, c)| *c != '\n').is_some() {},
            '{' | '}' | '<' | '>' | ':' | ',' | ';' | '[' | ']' => out.push((line, Token::Mark(c))),
            '"' | '\'' => out.push((line, Token::Text(string(&mut chars, c, line)?))),
            c if c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '.') => {
                let mut end = start + c.len_utf8();
                while let Some((at, c)) =
                    chars.next_if(|(_, c)| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '.'))
                {
                    end = at + c.len_utf8();
                }
                out.push((line, Token::Word(text[start..end].to_owned())));
            }
            c => return Err(format!("{line}: a stray {c:?}")),
        }
    }
    Ok(out)
}

fn string(chars: &mut Peekable<CharIndices<'_>>, quote: char, line: usize) -> Parsed<String> {
    let open = || format!("{line}: this string is not closed before the end of its line");
    let mut out: Vec<u8> = Vec::new();
    loop {
        let (_, c) = chars.next().ok_or_else(open)?;
        match c {
            '\n' => return Err(open()),
            c if c == quote => break,
            '\\' => {
                let (_, escaped) = chars.next().ok_or_else(open)?;
                match escaped {
                    'n' => out.push(b'\n'),
                    'r' => out.push(b'\r'),
                    't' => out.push(b'\t'),
                    '\\' | '\'' | '"' | '?' => out.push(escaped as u8),
                    '0'..='7' => {
                        out.push(digits(chars, escaped.to_digit(8).unwrap_or(0), 8, 2, line)?);
                    }
                    'x' | 'X' => out.push(digits(chars, 0, 16, 2, line)?),
                    other => return Err(format!("{line}: an unknown escape \\{other} in a string")),
                }
            }
            c => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    String::from_utf8(out).map_err(|_| format!("{line}: the escapes of this string are not UTF-8"))
}

fn digits(
    chars: &mut Peekable<CharIndices<'_>>,
    first: u32,
    base: u32,
    most: usize,
    line: usize,
) -> Parsed<u8> {
    let mut value = first;
    for _ in 0..most {
        match chars.next_if(|(_, c)| c.is_digit(base)) {
            Some((_, c)) => value = value * base + c.to_digit(base).unwrap_or(0),
            None => break,
        }
    }
    u8::try_from(value).map_err(|_| format!("{line}: an escape above 255 in a string"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_forms_in_use() {
        let text = "# c\nitem { name: 'a' id: 1 display_name: \"A \\303\\244\\x41\" } # d\nitem: <id: 0x2; name: \"b\" \
                    'c',>\nitem{id:3,name:\"d\" keypoints { id: 1 label: 'nose' } ancestor_ids: [1, 2] frequency: LVIS}";
        let items = parse(text).unwrap();
        assert_eq!(items.len(), 3);
        assert_eq!(items[0].display_name.as_deref(), Some("A äA"));
        assert_eq!((items[1].id, items[1].name.as_str()), (2, "bc"));
    }

    #[test]
    fn refuses_with_the_line() {
        for (text, line, part) in [
            ("item {\n id: 0 name: 'a' }", 2, "background"),
            ("item { id: 1 name: 'a' }\nitem { id: 1 name: 'b' }", 2, "twice"),
            ("item { id: 1 name: 'a' }\nitem { id: 2 name: 'a' }", 2, "twice"),
            ("item {\n id: 1\n name: 'a'\nitem { id: 2 name: 'b' } }", 4, "inside"),
            ("item { id: 1 name: 'a' }\n}", 2, "closes no item"),
            ("item { }\nname: 'a'", 1, "no id"),
            ("item { id: 1 name: 'a' }\n name: 'b'", 2, "outside"),
            ("item { id: 1 name: 'a'", 1, "not closed"),
            ("item { id: 1 name: 'a\n' }", 1, "not closed"),
            ("item { id: -4 name: 'a' }", 1, "whole number"),
            ("item { id: 1 id: 2 name: 'a' }", 1, "second"),
            ("item { id: 1 nam: 'a' }", 1, "no field"),
            ("item { id: 1 name: a }", 1, "in quotes"),
            ("item", 1, "followed"),
            ("item { id: 1 name: 'a' } $", 1, "stray"),
        ] {
            let err = parse(text).unwrap_err();
            assert!(err.starts_with(&format!("{line}:")) && err.contains(part), "{text:?}: {err}");
        }
    }

    #[test]
    fn never_panics() {
        let text = "item { name: 'a\\303\\244' id: 1 keypoints { id: [1] } }";
        for cut in 0..text.len() {
            let _ = parse(&text[..cut]);
        }
    }
}
