//! `conf get|show`: the settings of a running service, or what the next start
//! would use.

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use quickwater_rpc::admin::{GetConfRequest, Setting};
use serde_json::json;

use super::SettingsArgs;
use super::exit::Kind;
use super::output::{Output, emit};
use super::remote::{Target, explain};
use crate::home::RunFile;
use crate::settings::{Settings, Values, import, keys, layers, render};

#[derive(Debug, Subcommand)]
pub(super) enum ConfVerb {
    /// Print the reference of all settings as Markdown
    #[command(after_help = "Examples:\n  quickwater conf reference > docs/configuration.md")]
    Reference,
    /// Translate an alluxio-site.properties into settings (TOML)
    #[command(after_help = IMPORT_HELP)]
    Import {
        /// The properties file
        file: std::path::PathBuf,
        #[command(flatten)]
        output: Output,
    },
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

const IMPORT_HELP: &str = "\
Prints a settings file; what could not be translated stands in it as comments with
the reason. Secrets are never carried over.

Examples:
  quickwater conf import conf/alluxio-site.properties > quickwater.toml
  quickwater conf import conf/alluxio-site.properties --output json";

/// Largest properties file read, bytes.
const PROPERTIES_BYTES_MAX: u64 = 4 << 20;

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
        ConfVerb::Import { file, output } => import_file(&file, output),
        ConfVerb::Get { key, source } => get(&key, &source),
        ConfVerb::Show { defaults, source } => show(defaults, &source),
    }
}

fn import_file(file: &std::path::Path, output: Output) -> Result<ExitCode> {
    let name = file.display();
    let meta = std::fs::metadata(file).with_context(|| format!("cannot open {name}"))?;
    if meta.len() > PROPERTIES_BYTES_MAX {
        bail!("{name} is larger than 4 MiB; is it the right file?");
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let found =
        import::translate(&text).with_context(|| format!("{name} is no properties file"))?;
    let remarks = |remarks: &[import::Remark]| -> serde_json::Value {
        let one =
            |r: &import::Remark| json!({ "property": r.property, "value": r.value, "why": r.why });
        remarks.iter().map(one).collect()
    };
    let settings = found.settings.iter().map(|s| {
        let value = json!({ "value": s.text, "from": s.from });
        (s.key.name.to_owned(), value)
    });
    let json = json!({
        "settings": serde_json::Value::Object(settings.collect()),
        "untranslated": remarks(&found.untranslated),
        "needless": remarks(&found.needless),
    });
    output.show(&json, || import::toml(&found))
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
