//! `daos container`: create, list, query, destroy, properties. Attributes, access control lists and snapshots have files of
//! their own.

use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use client::ContainerSpec;
use serde_json::json;
use types::{AclOf, ContainerProperty, Label, Layout};

use super::{acl, attributes, snapshots};
use crate::failure::{Failure, Result};
use crate::mount;
use crate::options::{Names, Pairs, SystemOptions};
use crate::output::Outcome;
use crate::properties;
use crate::session::{self, Missing, Session, container_error};
use crate::show;

/// A container, by the labels or UUIDs of its pool and itself.
#[derive(Args, Clone, Debug)]
pub(crate) struct Named {
    /// Label or UUID of the pool
    pub(crate) pool: String,
    /// Label or UUID of the container
    pub(crate) container: String,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Make a container
    Create(Create),
    /// List the containers of a pool
    #[command(visible_alias = "ls")]
    List {
        /// Label or UUID of the pool
        pool: String,
        /// Also show UUIDs
        #[arg(short, long)]
        verbose: bool,
    },
    /// Show one container
    #[command(visible_alias = "stat")]
    Query(Named),
    /// Delete a container and all its data
    Destroy(Destroy),
    /// Show properties
    #[command(visible_alias = "getprop")]
    GetProp {
        #[command(flatten)]
        named: Named,
        /// Names: key[,key...]; all, if none
        #[arg(long = "properties", value_name = "NAMES")]
        option: Option<Names>,
        /// The same, said without the option
        #[arg(value_name = "PROPERTIES", conflicts_with = "option")]
        positional: Option<Names>,
    },
    /// Change properties
    #[command(visible_alias = "setprop")]
    SetProp {
        #[command(flatten)]
        named: Named,
        /// key:value[,key:value...]
        #[arg(long = "properties", value_name = "PROPERTIES")]
        option: Option<Pairs>,
        /// The same, said without the option
        #[arg(value_name = "PROPERTIES", conflicts_with = "option", required_unless_present = "option")]
        positional: Option<Pairs>,
    },
    #[command(flatten)]
    Acl(acl::Verb),
    #[command(flatten)]
    Attributes(attributes::Verb),
    #[command(flatten)]
    Snapshots(snapshots::Verb),
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Label or UUID of the pool
    pool: String,
    /// The new container's label; none: only a UUID
    label: Option<String>,
    /// What it will hold: POSIX, HDF5, PYTHON, SPARK, DATABASE, ROOT, SEISMIC, METEO
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "UNKNOWN", hide_default_value = true)]
    layout: Layout,
    /// Properties: key:value[,key:value...]
    #[arg(long, value_name = "PROPERTIES")]
    properties: Option<Pairs>,
    /// Object class of its objects: S1, SX, RP_2GX
    #[arg(short = 'o', long, value_name = "CLASS")]
    oclass: Option<types::ObjectClass>,
    /// Bytes of a file that lie together: 64KiB, 1MiB
    #[arg(short = 'z', long, value_name = "SIZE", value_parser = crate::options::size)]
    chunk_size: Option<types::ByteSize>,
    /// Attributes of your own: key:value[,key:value...]
    #[arg(short = 'a', long, value_name = "ATTRIBUTES")]
    attrs: Option<Pairs>,
    /// File of access control entries, A:[G]:PRINCIPAL:PERMISSIONS, one a line; they are kept and not enforced yet [default: the
    /// owner everything, the owner's group rwtT]
    #[arg(short = 'A', long, value_name = "FILE")]
    acl_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Destroy {
    #[command(flatten)]
    named: Named,
    /// Accepted for upstream's scripts; open handles never hold a container back here
    #[arg(short, long, hide = true)]
    force: bool,
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions) -> Result<Outcome> {
        session::with(system, Missing::Refuse, async |session| match &self {
            Verb::Create(create) => create.run(session).await,
            Verb::List { pool, verbose } => list(session, pool, *verbose).await,
            Verb::Query(named) => {
                let (response, text) = show::container(&named.open(session).await?.info().await?);
                Ok(Outcome::new(response, text))
            }
            Verb::Destroy(Destroy { named, force: _ }) => {
                let pool = session.pool(&named.pool).await?;
                match pool.destroy_container(&named.container).await {
                    Ok(()) => Ok(Outcome::new(json!(null), format!("container {} destroyed", named.container))),
                    Err(error) => Err(container_error(&pool, error, &named.container).await),
                }
            }
            Verb::GetProp { named, option, positional } => {
                let values = named.open(session).await?.properties().await?;
                let wanted = option.as_ref().or(positional.as_ref());
                let (response, text) = properties::shown(ContainerProperty::TABLE, &values, wanted)?;
                Ok(Outcome::new(response, text))
            }
            Verb::SetProp { named, option, positional } => {
                let pairs = option.clone().or(positional.clone()).unwrap_or(Pairs(Vec::new()));
                let checked = properties::checked(ContainerProperty::TABLE, pairs, false)?;
                named.open(session).await?.set_properties(checked).await?;
                Ok(Outcome::new(json!(null), format!("properties of container {} set", named.container)))
            }
            Verb::Acl(verb) => verb.run(session).await,
            Verb::Attributes(verb) => verb.run(session).await,
            Verb::Snapshots(verb) => verb.run(session).await,
        })
        .await
    }
}

impl Named {
    pub(crate) async fn open(&self, session: &Session) -> Result<client::Container> {
        session.container(&self.pool, &self.container).await
    }
}

pub(crate) async fn list(session: &Session, pool: &str, verbose: bool) -> Result<Outcome> {
    let containers = session.pool(pool).await?.containers().await?;
    let none = format!("no containers yet: create one with `daos container create {pool} LABEL --type POSIX`");
    let (response, text) = show::containers(&containers, verbose, &none);
    Ok(Outcome::new(response, text))
}

impl Create {
    async fn run(&self, session: &Session) -> Result<Outcome> {
        if let Some(label) = &self.label {
            Label::parse(label).map_err(|e| Failure::usage(e.to_string(), "choose another label"))?;
        }
        let mut pairs = self.properties.clone().unwrap_or(Pairs(Vec::new()));
        pairs.0.extend(self.oclass.map(|class| ("oclass".to_string(), class.to_string())));
        pairs.0.extend(self.chunk_size.map(|size| ("chunk_size".to_string(), size.0.to_string())));
        let attributes = self.attrs.clone().map_or(Vec::new(), |pairs| pairs.0);
        let spec = ContainerSpec {
            label: self.label.clone(),
            layout: self.layout,
            properties: properties::checked(ContainerProperty::TABLE, pairs, true)?,
            attributes: attributes.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect(),
            acl: self.acl_file.as_deref().map(|path| crate::acl::read(path, AclOf::Container)).transpose()?,
        };
        let pool = session.pool(&self.pool).await?;
        let info = pool.create_container(spec).await?;
        if self.layout == Layout::Posix {
            let container = pool.container(&info.id.to_string()).await?;
            mount::format(container, &info).await?;
        }
        let (response, mut text) = show::container(&info);
        if show::has_one_copy(&info) && pool.fault_domains() > 1 {
            text.push_str(ONE_COPY);
        }
        Ok(Outcome::new(response, text))
    }
}

/// Said where there could be more: nobody was asked, and it is for good.
const ONE_COPY: &str = "\nIts objects have one copy: what a server holds of them is out of reach while that server is. \
     `--properties rd_fac:1` makes two.\n";
