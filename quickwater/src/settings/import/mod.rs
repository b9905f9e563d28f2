//! Settings of movers: an `alluxio-site.properties` becomes settings of ours, and
//! a list of what has no counterpart here and why.
//!
//! Absent on purpose: writing files; secrets, which are never carried over.

mod properties;
mod rules;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(crate) use properties::BadProperties;
use rules::Outcome;

use super::keys::{self, Key, Kind};
use super::layers::{Layer, Source, Values};
use super::{Settings, render};

/// What became of a properties file.
#[derive(Debug, Default)]
pub(crate) struct Import {
    /// Our settings, in order of their table.
    pub settings: Vec<Translated>,
    /// Properties that need nothing set here.
    pub needless: Vec<Remark>,
    /// Properties that could not be translated.
    pub untranslated: Vec<Remark>,
}

/// A setting of ours and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Translated {
    /// The setting.
    pub key: &'static Key,
    /// Its value.
    pub text: String,
    /// The properties it was made of.
    pub from: Vec<String>,
}

/// A property and what to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remark {
    /// Its name.
    pub property: String,
    /// Its value; of secrets only that there is one.
    pub value: String,
    /// Why there is no setting, or what to do instead.
    pub why: String,
}

/// Translates the text of a properties file.
///
/// # Errors
/// It is not a properties file.
pub(crate) fn translate(text: &str) -> Result<Import, BadProperties> {
    let mut import = Import::default();
    let mut found: BTreeMap<&'static str, Translated> = BTreeMap::new();
    for (property, value) in properties::parse(text)? {
        let outcome = match value.contains("${") {
            true => Outcome::Not("refers to another property; write the value itself".into()),
            false => rules::apply(&property, &value),
        };
        let secret = rules::is_secret(&property);
        let remark = |why: String| Remark {
            property: property.clone(),
            value: if secret {
                "(not shown)".into()
            } else {
                value.clone()
            },
            why,
        };
        match outcome {
            Outcome::Set(name, text) => match add(&mut found, name, text, &property) {
                Ok(()) => {}
                Err(why) => import.untranslated.push(remark(why)),
            },
            Outcome::Needless(why) => import.needless.push(remark(why)),
            Outcome::Not(why) => import.untranslated.push(remark(why)),
        }
    }
    let in_order = keys::KEYS.iter().filter_map(|key| found.remove(key.name));
    import.settings = in_order.collect();
    Ok(import)
}

/// Adds a setting if the service would take it. Options are collected.
fn add(
    found: &mut BTreeMap<&'static str, Translated>,
    name: &str,
    text: String,
    property: &str,
) -> Result<(), String> {
    let key = keys::find(name).ok_or_else(|| format!("there is no setting `{name}`"))?;
    let before = found.get(key.name);
    let text = match before {
        Some(before) if key.kind == Kind::Options => format!("{},{text}", before.text),
        _ => text,
    };
    let layer = |text: &str| (key, vec![text.to_owned()], Source::Flag(key.flag.into()));
    let mut values = Values::defaults();
    let others = found.values().filter(|other| other.key.name != key.name);
    let others: Layer = others
        .map(|t| (t.key, vec![t.text.clone()], Source::Flag(t.key.flag.into())))
        .collect();
    values.lay(others);
    values.lay(vec![layer(&text)]);
    Settings::from_values(&values).map_err(|error| format!("{error:#}"))?;
    let mut from = before.map(|before| before.from.clone()).unwrap_or_default();
    from.push(property.to_owned());
    found.insert(key.name, Translated { key, text, from });
    Ok(())
}

/// The settings as a TOML file, with everything that was not translated as
/// comments.
pub(crate) fn toml(import: &Import) -> String {
    let mut out = String::from("# Made by `quickwater conf import`.\n");
    comment(&mut out, "Not translated:", &import.untranslated);
    comment(&mut out, "Nothing to set for:", &import.needless);
    let mut section = "";
    let plain = import.settings.iter().filter(|s| !s.key.name.contains('.'));
    let sections = import.settings.iter().filter(|s| s.key.name.contains('.'));
    for setting in plain.chain(sections) {
        let (above, name) = render::split(setting.key.name);
        if above != section {
            section = above;
            let _ = writeln!(out, "\n[{above}]");
        }
        let value = render::toml_value(setting.key, std::slice::from_ref(&setting.text));
        let _ = writeln!(out, "{name} = {value}  # {}", setting.from.join(", "));
    }
    out
}

fn comment(out: &mut String, heading: &str, remarks: &[Remark]) {
    if remarks.is_empty() {
        return;
    }
    let _ = writeln!(out, "#\n# {heading}");
    for remark in remarks {
        let value = remark.value.replace(['\n', '\r'], " ");
        let _ = writeln!(
            out,
            "# - {} = {value}\n#     {}",
            remark.property, remark.why
        );
    }
}
