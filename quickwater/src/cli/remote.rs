//! Finds a service and calls its admin API.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use quickwater_rpc::admin::admin_client::AdminClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::exit::Kind;
use super::output::Output;
use crate::home::{self, RunFile, Secret};

/// Time to connect to a service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one admin call; adding a mount reaches out to its UFS.
const CALL_TIMEOUT: Duration = Duration::from_secs(90);
/// Time between two questions whether the service still runs, while a call waits, and time for
/// the answer: a process that was stopped, or whose machine hangs, is not waited for.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Variable of the admin token.
const TOKEN_VARIABLE: &str = "QUICKWATER_ADMIN_TOKEN";
/// How else than from the directory a verb takes it.
const OTHERWISE: &str = ", or give the token by --token-file or QUICKWATER_ADMIN_TOKEN";

/// Which service, and how to print its answers.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// Directory of a local service
    #[arg(
        long,
        value_name = "DIR",
        env = "QUICKWATER_DIR",
        default_value = "./quickwater-data"
    )]
    pub(crate) dir: PathBuf,
    /// Admin address of a remote service, HOST:PORT; needs a token
    #[arg(long, value_name = "ADDR")]
    pub(crate) control: Option<String>,
    /// File that holds the admin token (otherwise QUICKWATER_ADMIN_TOKEN)
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// A connected admin client.
pub(crate) type Remote = AdminClient<InterceptedService<Channel, Bearer>>;

/// Puts the token into every call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Target {
    /// The local service of a directory.
    pub(crate) fn local(dir: PathBuf) -> Self {
        Self {
            dir,
            control: None,
            token_file: None,
            output: Output::default(),
        }
    }

    /// Runs `work` with a connected client on a runtime of its own.
    ///
    /// # Errors
    /// No service, no token, or what `work` says.
    pub(crate) fn with<T, F>(&self, work: impl FnOnce(Remote) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let (address, token) = self.find()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { work(connect(&address, &token).await?).await })
    }

    /// The admin address and the token.
    fn find(&self) -> Result<(String, Secret)> {
        let Some(address) = &self.control else {
            return self.find_local();
        };
        let token = match self.given_token()? {
            Some(token) => token,
            None => bail!(
                "--control needs the admin token: pass --token-file FILE (a copy of DIR/admin-token) or set {TOKEN_VARIABLE}"
            ),
        };
        Ok((address.clone(), token))
    }

    fn find_local(&self) -> Result<(String, Secret)> {
        let dir = self.dir.display();
        let run = RunFile::read(&self.dir)?.ok_or_else(|| {
            anyhow!("no service is ready in {dir}; start it with `quickwater serve --dir {dir}`, or name another with --dir or --control")
                .context(Kind::Unreachable)
        })?;
        let admin = run.admin.ok_or_else(|| {
            anyhow!("the service in {dir} is a worker; ask its control plane: --dir or --control of that one")
                .context(Kind::Unreachable)
        })?;
        Ok((admin.to_string(), self.local_token(OTHERWISE)?))
    }

    /// The token that is given, or else that of the directory; `otherwise` as for
    /// [`home::token_of`].
    ///
    /// # Errors
    /// It cannot be read; the text says what to do.
    pub(crate) fn local_token(&self, otherwise: &str) -> Result<Secret> {
        match self.given_token()? {
            Some(token) => Ok(token),
            None => home::token_of(&self.dir, otherwise),
        }
    }

    fn given_token(&self) -> Result<Option<Secret>> {
        if let Some(path) = &self.token_file {
            return home::read_token(path).map(Some);
        }
        let given = std::env::var(TOKEN_VARIABLE).ok();
        Ok(given
            .filter(|t| !t.is_empty())
            .map(|t| Secret::new(t.trim())))
    }
}

async fn connect(address: &str, token: &Secret) -> Result<Remote> {
    let uri = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let channel = Endpoint::from_shared(uri)
        .with_context(|| format!("'{address}' is not an address; write HOST:PORT"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .connect()
        .await
        .map_err(|e| {
            let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            anyhow!("nobody answers at {address} ({cause}); is the service running? Look at its log, or run `quickwater doctor`")
        })
        .context(Kind::Unreachable)?;
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.reveal())
        .parse()
        .map_err(|_| anyhow!("the admin token holds characters that cannot be sent; use the content of DIR/admin-token"))?;
    value.set_sensitive(true);
    Ok(AdminClient::with_interceptor(channel, Bearer(value)))
}

/// An admin answer as an error for people: what it says and what to do next.
pub(crate) fn explain(status: &Status) -> anyhow::Error {
    match std::error::Error::source(status) {
        Some(cause) => broken(status.code(), cause),
        None => refused(status),
    }
}

/// No answer: tonic gives a status a source only when it made the status itself,
/// of a failure of the connection.
fn broken(code: Code, cause: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let mut deepest = cause;
    let mut is_silent = false;
    while let Some(next) = deepest.source() {
        deepest = next;
        // What hyper calls a ping without an answer.
        is_silent |= deepest.to_string() == "keep-alive timed out";
    }
    if is_silent {
        return anyhow!(
            "the service does not answer: its process is stopped (`kill -CONT` wakes it), or its \
             machine hangs; look at the result before you try again"
        )
        .context(Kind::Unreachable);
    }
    let what = match code {
        Code::DeadlineExceeded | Code::Cancelled => "no answer in time",
        _ => "the connection broke",
    };
    anyhow!("{what} ({deepest}); look at the result before you try again")
        .context(Kind::Unreachable)
}

/// What the service itself answered.
fn refused(status: &Status) -> anyhow::Error {
    let text = status.message();
    match status.code() {
        Code::Unauthenticated => anyhow!(
            "the service refuses the admin token; use the content of its DIR/admin-token (--token-file or {TOKEN_VARIABLE})"
        ),
        Code::Unavailable => anyhow!("{text}; nothing changed"),
        Code::DeadlineExceeded | Code::Cancelled => {
            anyhow!("not done in time ({text}); look at the result before you try again")
        }
        Code::Aborted => {
            anyhow!("{text}; the outcome is unknown, look at the result before you try again")
        }
        _ => anyhow!("{text}"),
    }
}
