//! `conf get|show`: the settings of a running service, or what the next start
//! would use.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use quickwater_rpc::admin::{GetConfRequest, Setting};
use serde_json::json;

use super::SettingsArgs;
use super::exit::Kind;
use super::output::{Output, emit};
use super::remote::{Target, explain};
use crate::home::RunFile;
use crate::settings::{Settings, Values, keys, layers, render};

#[derive(Debug, Subcommand)]
pub(super) enum ConfVerb {
    /// Print the reference of all settings as Markdown
    #[command(after_help = "Examples:\n  quickwater conf reference > docs/configuration.md")]
    Reference,
    /// Print the value of one setting
    #[command(after_help = HELP)]
    Get {
        /// Dotted name, e.g. s3.listen
        key: String,
        #[command(flatten)]
        source: ConfSource,
    },
    /// Print all settings and where they come from
    #[command(after_help = HELP)]
    Show {
        /// The built-in defaults instead
        #[arg(long)]
        defaults: bool,
        #[command(flatten)]
        source: ConfSource,
    },
}

const HELP: &str = "\
With a running service in DIR, or with --control, these are its settings in force;
otherwise what `serve` would use with the same flags, variables and file.

Examples:
  quickwater conf get s3.listen --dir ./data
  quickwater conf show --defaults
  quickwater conf show --dir ./data --offline --output json";

/// Whose settings.
#[derive(Debug, Args)]
pub(super) struct ConfSource {
    #[command(flatten)]
    settings: SettingsArgs,
    /// What the next start would use, even if a service runs
    #[arg(long)]
    offline: bool,
    /// Admin address of a remote service, HOST:PORT; needs a token
    #[arg(long, value_name = "ADDR")]
    control: Option<String>,
    /// File that holds the admin token (otherwise QUICKWATER_ADMIN_TOKEN)
    #[arg(long, value_name = "FILE")]
    token_file: Option<std::path::PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(verb: ConfVerb) -> Result<ExitCode> {
    match verb {
        ConfVerb::Reference => {
            emit(&render::page())?;
            Ok(ExitCode::SUCCESS)
        }
        ConfVerb::Get { key, source } => get(&key, &source),
        ConfVerb::Show { defaults, source } => show(defaults, &source),
    }
}

impl ConfSource {
    /// The service to ask, if one is to be asked.
    fn live(&self, values: &Values) -> Result<Option<Target>> {
        let dir = std::path::PathBuf::from(values.text("dir"));
        let running = self.control.is_some() || RunFile::read(&dir)?.is_some_and(|r| r.is_alive());
        if self.offline || !running {
            return Ok(None);
        }
        Ok(Some(Target {
            dir,
            control: self.control.clone(),
            token_file: self.token_file.clone(),
            output: self.output,
        }))
    }
}

fn get(key: &str, source: &ConfSource) -> Result<ExitCode> {
    if keys::find(key).is_none() {
        return Err(anyhow!(unknown(key)).context(Kind::Usage));
    }
    let values = source.settings.values()?;
    let (value, from) = match source.live(&values)? {
        Some(target) => {
            let setting = ask(&target, key)?.into_iter().find(|s| s.key == key);
            let setting = setting.ok_or_else(|| {
                anyhow!("the service does not know `{key}`; is it another version?")
            })?;
            (setting.value, setting.source)
        }
        None => (values.texts(key).join(" "), values.source(key).to_string()),
    };
    let json = json!({ "key": key, "value": value, "source": from });
    source.output.show(&json, || format!("{value}\n"))
}

pub(super) fn unknown(key: &str) -> String {
    let hint = match layers::suggestion(key, keys::KEYS.iter().map(|k| k.name)) {
        hint if hint.is_empty() => ";".to_owned(),
        hint => hint,
    };
    format!("unknown setting `{key}`{hint} `quickwater conf show` lists all")
}

fn show(defaults: bool, source: &ConfSource) -> Result<ExitCode> {
    if defaults {
        let values = Values::defaults();
        return source
            .output
            .show(&render::json(&values), || render::show(&values));
    }
    let values = source.settings.values()?;
    let Some(target) = source.live(&values)? else {
        Settings::from_values(&values).map_err(|e| e.context(Kind::Usage))?;
        return source
            .output
            .show(&render::json(&values), || render::show(&values));
    };
    let settings = ask(&target, "")?;
    let all = settings.iter().map(|s| (s.key.clone(), json!(s.value)));
    let json = serde_json::Value::Object(all.collect());
    source.output.show(&json, || {
        let line = |s: &Setting| format!("{} = {:?}  # {}\n", s.key, s.value, s.source);
        settings.iter().map(line).collect()
    })
}

fn ask(target: &Target, key: &str) -> Result<Vec<Setting>> {
    let request = GetConfRequest {
        key: key.to_owned(),
        defaults: false,
    };
    target.with(|mut remote| async move {
        let reply = remote.get_conf(request).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner().settings)
    })
}
