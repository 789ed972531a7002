//! Settings: flags win over the environment, the environment over a file, the file over defaults.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Serialized, Toml},
    value::{Dict, Map, Value},
};
use serde::{Deserialize, Serialize};

/// Every setting, resolved.
#[derive(Debug, Deserialize)]
#[cfg_attr(
    not(all(feature = "embedded", feature = "production")),
    allow(
        dead_code,
        reason = "each shape has settings of its own; all are read, so that a typo is found in any build"
    )
)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) shape: Shape,
    pub(crate) listen: String,
    pub(crate) public_url: Option<String>,
    pub(crate) data_dir: PathBuf,
    /// `None`: where it is safe, see [`crate::demo`].
    pub(crate) demo: Option<bool>,
    pub(crate) shutdown_seconds: u64,
    #[serde(default)]
    pub(crate) admin_token: Option<Secret>,
    #[serde(default)]
    pub(crate) database_url: Option<Secret>,
    pub(crate) kafka_brokers: Option<String>,
    #[serde(default)]
    pub(crate) opensearch_url: Option<Secret>,
    pub(crate) topic_prefix: String,
    pub(crate) consumer_group: String,
    pub(crate) search_index: String,
}

/// Text that no log or error shows.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What the marketplace runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// A SQLite file, projections straight from its log, a search index in a directory: no service to install
    Embedded,
    /// PostgreSQL, Kafka and OpenSearch
    Production,
}

const EXAMPLES: &str = "\
Examples:
  marketplace                                     everything in ./marketplace-data, demo tutors included
  marketplace --data-dir /var/lib/marketplace --no-demo
  marketplace --listen 127.0.0.1:0                any free port; the line \"listening on …\" says which
  marketplace search-letters                      what the search index refused, and why
  MARKETPLACE_ADMIN_TOKEN=… MARKETPLACE_DATABASE_URL=postgres://… \\
    marketplace --shape production --kafka-brokers localhost:9092 --opensearch-url http://localhost:9200

Settings:
  Every option can also be set in the environment (--data-dir as MARKETPLACE_DATA_DIR) or in the file
  marketplace.toml of the current directory (data_dir = \"…\"). Options win over the environment, the environment
  over the file. The admin's token is never an option, since others could see it: MARKETPLACE_ADMIN_TOKEN or the
  file's admin_token. Addresses with a password belong there too. RUST_LOG sets what is logged to standard error.";

const LETTERS_EXAMPLES: &str = "\
Examples:
  marketplace --data-dir shop search-letters                    lists them
  marketplace --data-dir shop search-letters replay --dry-run   says what a replay would do
  marketplace --data-dir shop search-letters replay             applies them, and deletes those that are done

Settings stand in front of the command. The embedded shape has to be stopped for a replay; the production shape may
run meanwhile.";

/// What to do instead of running the marketplace.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Command {
    /// List the events that the search index refused, or replay them
    #[command(after_help = LETTERS_EXAMPLES)]
    SearchLetters {
        #[command(subcommand)]
        what: Option<Letters>,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Letters {
    /// Apply them after all, those of a tutor in order; where one fails, it and the rest of that tutor's stay
    Replay {
        /// Only say what each event means to the index, which is neither asked nor changed
        #[arg(long)]
        dry_run: bool,
    },
}

/// A tutors marketplace on a transactional outbox
#[derive(Debug, Parser, Serialize)]
#[command(name = "marketplace", version, after_help = EXAMPLES)]
struct Options {
    #[command(subcommand)]
    #[serde(skip)]
    command: Option<Command>,

    /// File with settings; it must exist [default: marketplace.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,

    /// What to run on [default: embedded]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<Shape>,

    /// Address and port to listen on; port 0 means any free one [default: 127.0.0.1:8000]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,

    /// How clients reach this server, for links in answers [default: the address listened on]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    public_url: Option<String>,

    /// Directory of the embedded shape: database, search index, admin's token. Made when missing; ignored by git
    /// [default: marketplace-data]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,

    /// Load demo tutors when there are no tutors yet [default: when embedded, on a loopback address, in an empty
    /// directory]
    #[arg(long, overrides_with = "no_demo")]
    #[serde(skip)]
    demo: bool,

    /// Load no demo tutors
    #[arg(long)]
    #[serde(skip)]
    no_demo: bool,

    /// How long a stop may take, in seconds [default: 10]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown_seconds: Option<u64>,

    /// PostgreSQL (production), such as `postgres://user:password@host/database`
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    database_url: Option<String>,

    /// Kafka (production), such as host:9092,other:9092
    #[arg(long, value_name = "HOST:PORT,…")]
    #[serde(skip_serializing_if = "Option::is_none")]
    kafka_brokers: Option<String>,

    /// OpenSearch (production), such as `http://host:9200`
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    opensearch_url: Option<String>,

    /// Put before the names of all Kafka topics [default: nothing]
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_prefix: Option<String>,

    /// Consumer group that feeds the search index (production) [default: search-service]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer_group: Option<String>,

    /// Alias of the search index (production) [default: tutors]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    search_index: Option<String>,
}

/// Values of the settings that have one always.
#[derive(Serialize)]
struct Defaults {
    shape: Shape,
    listen: &'static str,
    data_dir: &'static str,
    shutdown_seconds: u64,
    topic_prefix: &'static str,
    consumer_group: &'static str,
    search_index: &'static str,
}

const DEFAULTS: Defaults = Defaults {
    shape: if cfg!(feature = "embedded") { Shape::Embedded } else { Shape::Production },
    listen: "127.0.0.1:8000",
    data_dir: "marketplace-data",
    shutdown_seconds: 10,
    topic_prefix: "",
    consumer_group: "search-service",
    search_index: "tutors",
};

/// Read when it is there and no other file is named.
const FILE: &str = "marketplace.toml";

/// What the names of our environment variables begin with.
const PREFIX: &str = "MARKETPLACE_";

impl Config {
    /// How long the relay or a projection may take to finish what is under way: half of the whole, so that what was
    /// done is recorded before the program gives up.
    pub(crate) fn drain(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.shutdown_seconds) / 2
    }

    /// Reads options, environment and file. `--help` and unknown options end the program here, as clap does it.
    pub(crate) fn load() -> anyhow::Result<(Self, Option<Command>)> {
        let options = Options::parse();
        let command = options.command;
        let environment = Environment::of(std::env::vars_os().filter_map(|(name, value)| {
            // Other programs' variables may hold anything.
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }));
        Ok((Self::resolve(options, environment)?, command))
    }

    fn resolve(options: Options, environment: Environment) -> anyhow::Result<Self> {
        let file = options.config.clone().or_else(|| Some(PathBuf::from(FILE)).filter(|file| file.exists()));
        let mut figment = Figment::from(Serialized::defaults(DEFAULTS));
        if let Some(file) = file {
            anyhow::ensure!(file.is_file(), "the settings file {} does not exist", file.display());
            figment = figment.merge(Toml::file_exact(file));
        }
        figment = figment.merge(environment);
        if options.demo || options.no_demo {
            figment = figment.merge(Serialized::default("demo", options.demo));
        }
        let config: Self =
            figment.merge(Serialized::defaults(options)).extract().context("a setting is missing or wrong")?;
        if let Some(url) = &config.public_url {
            let parsed = url::Url::parse(url).with_context(|| format!("public_url {url:?} is no web address"))?;
            let web = matches!(parsed.scheme(), "http" | "https") && parsed.query().is_none();
            anyhow::ensure!(web, "public_url {url:?} is no web address such as https://tutors.example.org");
        }
        Ok(config)
    }
}

/// Our variables. Values are taken as they stand: a token of digits is no number.
struct Environment(Dict);

impl Environment {
    fn of(variables: impl Iterator<Item = (String, String)>) -> Self {
        let ours = variables.filter_map(|(name, value)| {
            let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
            let value = if matches!(key.as_str(), "shutdown_seconds" | "demo") {
                value.parse::<Value>().unwrap_or_else(|never| match never {})
            } else {
                value.into()
            };
            Some((key, value))
        });
        Self(ours.collect())
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment").interpolater(|_, keys| format!("{PREFIX}{}", keys.join("_").to_uppercase()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.0.clone())]))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use tempfile::TempDir;

    use super::*;

    fn resolve(file: &str, environment: &[(&str, &str)], arguments: &[&str]) -> anyhow::Result<Config> {
        let directory = TempDir::new().expect("directory");
        let path = directory.path().join("settings.toml");
        fs::write(&path, file).expect("write");
        let always = ["marketplace", "--config", path.to_str().expect("UTF-8")];
        let variables = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::resolve(Options::parse_from([&always, arguments].concat()), Environment::of(variables))
    }

    fn refusal(file: &str, environment: &[(&str, &str)]) -> String {
        format!("{:#}", resolve(file, environment, &[]).expect_err("refused"))
    }

    #[test]
    fn options_win_over_environment_over_file_over_defaults() {
        let file = "listen = \"127.0.0.1:1\"\ndata_dir = \"from-file\"\nadmin_token = \"file-file-file-file\"\n";
        let environment = [
            ("MARKETPLACE_DATA_DIR", "from-env"),
            ("MARKETPLACE_SHUTDOWN_SECONDS", "3"),
            ("MARKETPLACE_DEMO", "true"),
            ("MARKETPLACE_ADMIN_TOKEN", "00123456789012345678"),
            ("OTHER_DATA_DIR", "not ours"),
        ];
        let config = resolve(file, &environment, &["--shutdown-seconds", "4", "--no-demo"]).expect("valid");
        assert_eq!(config.listen, "127.0.0.1:1");
        assert_eq!(config.data_dir, Path::new("from-env"));
        assert_eq!(config.shutdown_seconds, 4);
        assert_eq!(config.demo, Some(false));
        assert_eq!(config.admin_token.expect("token").0, "00123456789012345678");
        assert_eq!(config.search_index, "tutors");
    }

    #[test]
    fn what_is_misspelt_or_wrong_is_named() {
        let error = refusal("databse_url = \"postgres://u:secret@h/d\"", &[]);
        assert!(error.contains("databse_url") && !error.contains("secret"), "{error}");
        let error = refusal("", &[("MARKETPLACE_SHUTDOWN_SECONDS", "soon")]);
        assert!(error.contains("MARKETPLACE_SHUTDOWN_SECONDS"), "{error}");
        assert!(refusal("shape = \"cloud\"", &[]).contains("cloud"));
        assert!(refusal("public_url = \"tutors\"", &[]).contains("public_url"));
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let options = Options::parse_from(["marketplace", "--config", "absent.toml"]);
        let error = Config::resolve(options, Environment(Dict::new())).expect_err("absent").to_string();
        assert!(error.contains("absent.toml"), "{error}");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }
}
