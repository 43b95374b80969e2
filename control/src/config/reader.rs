//! Reads typed values out of a spanned TOML table and collects every finding on the way, instead of
//! stopping at the first. A key that nobody asked for is unknown, and the nearest asked one is named.

use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::{Finding, Place, Places, Severity};
use super::size::parse_size;

/// State of one reading.
pub(super) struct Reader {
    line_starts: Vec<usize>,
    text: String,
    pub(super) findings: Vec<Finding>,
    pub(super) places: Places,
}

/// A table under reading, with its path and the keys asked for so far.
pub(super) struct Section<'d> {
    pub(super) path: String,
    table: Option<&'d DeTable<'d>>,
    asked: Vec<&'static str>,
}

impl<'d> Section<'d> {
    /// The document itself.
    pub(super) fn root(table: &'d DeTable<'d>) -> Self {
        Self { path: String::new(), table: Some(table), asked: Vec::new() }
    }

    fn ask(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.push(key);
        self.table?.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
    }

    /// Path of a key of this table.
    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl Reader {
    pub(super) fn new(text: &str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { line_starts: starts, text: text.to_owned(), findings: Vec::new(), places: Places::default() }
    }

    /// Line and column of a byte.
    pub(super) fn place(&self, byte: usize) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= byte).saturating_sub(1);
        let start = self.line_starts[line];
        let column = self.text.get(start..byte).map_or(0, |before| before.chars().count());
        Place { line: line as u32 + 1, column: column as u32 + 1 }
    }

    pub(super) fn error(&mut self, span: Range<usize>, what: String, remedy: String) {
        let place = Some(self.place(span.start));
        self.findings.push(Finding { severity: Severity::Error, place, what, remedy });
    }

    /// Something the file lacks, told at the place of its table.
    pub(super) fn lacking(&mut self, path: &str, what: String, remedy: String) {
        let place = self.places.find(path);
        self.findings.push(Finding { severity: Severity::Error, place, what, remedy });
    }

    fn remember<'d>(
        &mut self,
        section: &mut Section<'d>,
        key: &'static str,
    ) -> Option<&'d Spanned<DeValue<'d>>> {
        let value = section.ask(key)?;
        let place = self.place(value.span().start);
        self.places.set(section.at(key), place);
        Some(value)
    }

    pub(super) fn wrong(&mut self, path: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        self.error(
            value.span(),
            format!("`{path}` is {}, not {wanted}", kind_of(value.get_ref())),
            format!("write {wanted}"),
        );
    }

    /// A string.
    pub(super) fn string(&mut self, section: &mut Section<'_>, key: &'static str) -> Option<String> {
        let value = self.remember(section, key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => {
                self.wrong(&section.at(key), value, "a string in quotes");
                None
            }
        }
    }

    /// A string that must be there and must not be empty.
    pub(super) fn name(&mut self, section: &mut Section<'_>, what: &str) -> String {
        let found = self.string(section, "name");
        if section.table.is_some_and(|table| !table.iter().any(|(k, _)| k.get_ref().as_ref() == "name")) {
            let path = section.path.clone();
            self.lacking(&path, format!("{what} has no name"), "add name = \"…\"".to_owned());
        }
        found.unwrap_or_default()
    }

    /// A whole number of at least 0.
    pub(super) fn number(&mut self, section: &mut Section<'_>, key: &'static str) -> Option<u64> {
        let value = self.remember(section, key)?;
        let number = whole(value.get_ref());
        if number.is_none() {
            self.wrong(&section.at(key), value, "a whole number of at least 0");
        }
        number
    }

    /// A whole number of at most `max`.
    pub(super) fn number_to(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        max: u64,
        default: u64,
    ) -> u64 {
        let Some(value) = self.number(section, key) else { return default };
        if value > max {
            let path = section.at(key);
            self.lacking(&path, format!("`{path}` is {value}, above {max}"), format!("write at most {max}"));
            return default;
        }
        value
    }

    /// A whole number of at most `max`, or `"off"`.
    pub(super) fn number_or_off(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        max: u64,
        default: Option<u64>,
    ) -> Option<u64> {
        let Some(value) = self.remember(section, key) else { return default };
        match value.get_ref() {
            DeValue::String(text) if text == "off" => None,
            other => match whole(other) {
                Some(number) if number <= max => Some(number),
                Some(number) => {
                    let path = section.at(key);
                    let what = format!("`{path}` is {number}, above {max}");
                    self.error(value.span(), what, format!("write at most {max}, or \"off\""));
                    default
                }
                None => {
                    self.wrong(&section.at(key), value, "a whole number of at least 0, or \"off\"");
                    default
                }
            },
        }
    }

    /// A size in bytes, written as `"4 GiB"` or as a number.
    pub(super) fn size(&mut self, section: &mut Section<'_>, key: &'static str) -> Option<u64> {
        let value = self.remember(section, key)?;
        if let Some(number) = whole(value.get_ref()) {
            return Some(number);
        }
        let DeValue::String(text) = value.get_ref() else {
            self.wrong(&section.at(key), value, "a size such as \"4 GiB\"");
            return None;
        };
        match parse_size(text) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let path = section.at(key);
                self.error(
                    value.span(),
                    format!("`{path}` is no size: {error}"),
                    "write \"4 GiB\"".to_owned(),
                );
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn truth(&mut self, section: &mut Section<'_>, key: &'static str) -> bool {
        let Some(value) = self.remember(section, key) else { return false };
        match value.get_ref() {
            DeValue::Boolean(truth) => *truth,
            _ => {
                self.wrong(&section.at(key), value, "true or false");
                false
            }
        }
    }

    /// One of a few words; the first is the default.
    pub(super) fn word<T: Copy>(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        words: &[(&str, T)],
    ) -> T {
        let Some(text) = self.string(section, key) else { return words[0].1 };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let path = section.at(key);
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let near = nearest(&text, &list).map_or(String::new(), |word| format!(", did you mean \"{word}\"?"));
        self.lacking(
            &path,
            format!("`{path}` cannot be \"{text}\"{near}"),
            format!("write one of \"{}\"", list.join("\", \"")),
        );
        words[0].1
    }

    /// Something that a string is parsed into.
    pub(super) fn parsed<T: FromStr>(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
        wanted: &str,
    ) -> Option<T> {
        let text = self.string(section, key)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let path = section.at(key);
            self.lacking(&path, format!("`{path}` is \"{text}\", not {wanted}"), format!("write {wanted}"));
        }
        parsed
    }

    /// A list; each element is given to `each` with its path. False when there is none.
    pub(super) fn list<'d>(
        &mut self,
        section: &mut Section<'d>,
        key: &'static str,
        mut each: impl FnMut(&mut Self, String, &'d Spanned<DeValue<'d>>),
    ) -> bool {
        let Some(value) = self.remember(section, key) else { return false };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong(&section.at(key), value, "a list");
            return false;
        };
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{index}]", section.at(key));
            let place = self.place(item.span().start);
            self.places.set(path.clone(), place);
            each(self, path, item);
        }
        true
    }

    /// A list, or the only element of one without its brackets.
    pub(super) fn one_or_more<'d>(
        &mut self,
        section: &mut Section<'d>,
        key: &'static str,
        mut each: impl FnMut(&mut Self, String, &'d Spanned<DeValue<'d>>),
    ) {
        let Some(value) = self.remember(section, key) else { return };
        match value.get_ref() {
            DeValue::Array(_) => drop(self.list(section, key, each)),
            _ => each(self, section.at(key), value),
        }
    }

    /// A list of tables.
    pub(super) fn tables<'d>(&mut self, section: &mut Section<'d>, key: &'static str) -> Vec<Section<'d>> {
        let mut found = Vec::new();
        self.list(section, key, |reader, path, item| match item.get_ref() {
            DeValue::Table(table) => found.push(Section { path, table: Some(table), asked: Vec::new() }),
            _ => reader.wrong(&path, item, "a table"),
        });
        found
    }

    /// A table; an empty one when absent, so that defaults apply.
    pub(super) fn table<'d>(&mut self, section: &mut Section<'d>, key: &'static str) -> Section<'d> {
        let path = section.at(key);
        let mut table = None;
        if let Some(value) = self.remember(section, key) {
            match value.get_ref() {
                DeValue::Table(found) => table = Some(found),
                _ => self.wrong(&path, value, "a table"),
            }
        }
        Section { path, table, asked: Vec::new() }
    }

    /// Ends the reading of a table: what nobody asked for is unknown.
    pub(super) fn finish(&mut self, section: &Section<'_>) {
        let Some(table) = section.table else { return };
        for (key, _) in table.iter() {
            let name = key.get_ref().as_ref();
            if section.asked.contains(&name) {
                continue;
            }
            let near = nearest(name, &section.asked);
            let remedy = match near {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("known keys here: {}", section.asked.join(", ")),
            };
            let home =
                if section.path.is_empty() { "the file".to_owned() } else { format!("`{}`", section.path) };
            self.error(key.span(), format!("unknown key `{name}` in {home}"), remedy);
        }
    }
}

/// A value as a whole number of at least 0.
pub(super) fn whole(value: &DeValue<'_>) -> Option<u64> {
    match value {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

/// The word most like `text`, if one is near enough to be meant.
fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    words
        .iter()
        .map(|word| (strsim::damerau_levenshtein(text, word), *word))
        .filter(|(distance, word)| *distance <= 1 + word.len().min(text.len()) / 3)
        .min()
        .map(|(_, word)| word)
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
