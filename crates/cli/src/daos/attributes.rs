//! `daos container *-attr`: names and values of the user's own.

use bytes::Bytes;
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;
use types::{Code, Error, nearest};

use super::container::Named;
use crate::encoded::{Encoded, shown};
use crate::failure::{Failure, Result};
use crate::options::{Names, Pairs};
use crate::output::Outcome;
use crate::session::Session;
use crate::table::table;

/// How much of a value one line of a table shows, in bytes.
const SHOWN_BYTES: usize = 120;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Set attributes
    #[command(visible_alias = "setattr")]
    SetAttr {
        #[command(flatten)]
        named: Named,
        /// key:value[,key:value...]
        #[arg(value_name = "ATTRIBUTES", required_unless_present = "attr")]
        attributes: Option<Pairs>,
        /// The name of a single attribute
        #[arg(short, long, value_name = "KEY", requires = "value", conflicts_with = "attributes")]
        attr: Option<String>,
        /// Its value
        #[arg(short, long, requires = "attr")]
        value: Option<String>,
    },
    /// Show attributes
    #[command(visible_alias = "getattr")]
    GetAttr {
        #[command(flatten)]
        named: Named,
        /// Names: key[,key...]; all, if none
        #[arg(value_name = "NAMES")]
        names: Option<Names>,
        /// The same, said with an option
        #[arg(short, long, value_name = "NAMES", conflicts_with = "names")]
        attr: Option<Names>,
    },
    /// List the names of attributes
    #[command(visible_aliases = ["list-attr", "lsattr"])]
    ListAttrs {
        #[command(flatten)]
        named: Named,
        /// Also show values
        #[arg(short = 'V', long)]
        verbose: bool,
    },
    /// Delete attributes
    #[command(visible_alias = "delattr")]
    DelAttr {
        #[command(flatten)]
        named: Named,
        /// Names: key[,key...]
        #[arg(value_name = "NAMES", required_unless_present = "attr")]
        names: Option<Names>,
        /// The same, said with an option
        #[arg(short, long, value_name = "NAMES", conflicts_with = "names")]
        attr: Option<Names>,
    },
}

#[derive(Serialize)]
struct Attribute {
    name: String,
    #[serde(flatten)]
    value: Encoded,
}

impl Verb {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome> {
        match self {
            Verb::SetAttr { named, attributes, attr, value } => {
                let mut pairs = attributes.clone().map_or(Vec::new(), |pairs| pairs.0);
                pairs.extend(attr.clone().zip(value.clone()));
                let count = pairs.len() as u64;
                let attributes = pairs.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect();
                named.open(session).await?.set_attributes(attributes).await?;
                Ok(Outcome::new(json!(null), format!("{} set", crate::table::count(count, "attribute"))))
            }
            Verb::GetAttr { named, names, attr } => {
                let names = names.as_ref().or(attr.as_ref()).map_or(Vec::new(), |names| names.0.clone());
                let container = named.open(session).await?;
                known(&container, &names).await?;
                Ok(listed(container.attributes(&borrowed(&names)).await?, "no attributes"))
            }
            Verb::ListAttrs { named, verbose } => {
                let container = named.open(session).await?;
                if *verbose {
                    return Ok(listed(container.attributes(&[]).await?, "no attributes"));
                }
                let names = container.attribute_names().await?;
                let text = if names.is_empty() { "no attributes".to_string() } else { names.join("\n") };
                Ok(Outcome::new(names, text))
            }
            Verb::DelAttr { named, names, attr } => {
                let names = names.as_ref().or(attr.as_ref()).map_or(Vec::new(), |names| names.0.clone());
                let container = named.open(session).await?;
                known(&container, &names).await?;
                let count = names.len() as u64;
                container.delete_attributes(&borrowed(&names)).await?;
                Ok(Outcome::new(json!(null), format!("{} deleted", crate::table::count(count, "attribute"))))
            }
        }
    }
}

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Fails unless the container has every attribute in `names`.
async fn known(container: &client::Container, names: &[String]) -> Result<()> {
    let present = container.attribute_names().await?;
    let Some(absent) = names.iter().find(|name| !present.contains(name)) else {
        return Ok(());
    };
    let error = Error::new(Code::NotFound, format!("no attribute '{absent}'"));
    let remedy = match nearest(absent, present.iter().map(String::as_str)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => "list attributes with `daos container list-attrs`".to_string(),
    };
    Err(Failure::Failed(error.remedy(remedy)))
}

fn listed(attributes: Vec<(String, Bytes)>, none: &str) -> Outcome {
    let rows = attributes.iter().map(|(name, value)| vec![name.clone(), shown(value, SHOWN_BYTES)]).collect();
    let text = if attributes.is_empty() { none.to_string() } else { table(&["Name", "Value"], rows) };
    let attribute = |(name, value): (String, Bytes)| Attribute { name, value: Encoded::new(&value) };
    Outcome::new(attributes.into_iter().map(attribute).collect::<Vec<_>>(), text)
}
