//! Requests about the system: its servers, tokens, attributes, and which pools there are.

use std::rc::Rc;
use std::time::Duration;

use net::Request;
use sha2::{Digest, Sha256};
use types::{Code, Error, PoolId, Rank};
use wire::control::{self as msg, MemberState};
use wire::encoding::{Bytes, Bytes32};
use wire::{Opcode, Wire};

use super::Service;
use super::route::Call;
use super::system::{Hash, SystemCommand};
use crate::target::parse;

/// How long a token may wait to be used, at most.
const TOKEN_SECONDS_MAX: u64 = 30 * 24 * 3600;

impl Service {
    /// Answers a request as the leader of the system.
    pub(super) async fn answer_for_system(self: &Rc<Self>, call: &Call, term: u64) -> Result<Vec<u8>, Error> {
        let body = &call.body;
        match call.opcode {
            Opcode::SystemQuery => Ok(self.system_info().to_bytes()),
            Opcode::SystemToken => Ok(self.make_token(call, term, parse(body)?).await?.to_bytes()),
            Opcode::SystemExclude => {
                let msg::SystemExclude { ranks, exclude } = parse(body)?;
                self.change_system(call, term, SystemCommand::Exclude { ranks, exclude }).await
            }
            Opcode::SystemStop => Ok(self.system_stop(call, term, parse(body)?).await?.to_bytes()),
            Opcode::SystemChangeTargets => Ok(self.system_change_targets(call, parse(body)?).await?.to_bytes()),
            Opcode::SystemSetAttributes => {
                let msg::SystemSetAttributes { attributes } = parse(body)?;
                self.change_system(call, term, SystemCommand::SetAttributes { attributes }).await
            }
            Opcode::SystemSetProperties => {
                let msg::SystemSetProperties { properties: values } = parse(body)?;
                self.change_system(call, term, SystemCommand::SetProperties { values }).await
            }
            Opcode::SystemGetProperties => {
                let mut values = vec![
                    ("daos_system".to_string(), self.system_name()),
                    ("daos_version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
                ];
                self.system.group.local(|system| values.extend(system.properties.clone()));
                Ok(msg::Properties { values }.to_bytes())
            }
            Opcode::SystemGetAttributes => {
                let attributes = self.system.group.local(|system| system.attributes.clone().into_iter().collect());
                Ok(msg::SystemAttributes { attributes }.to_bytes())
            }
            Opcode::StorageQuery => Ok(self.storage_info().await?.to_bytes()),
            Opcode::PoolCreate => Ok(self.pool_create(call, term, parse(body)?).await?.to_bytes()),
            Opcode::PoolList => Ok(self.pool_list(call.until).await?.to_bytes()),
            Opcode::PoolDestroy => Ok(self.pool_destroy(call, term, parse(body)?).await?.to_bytes()),
            Opcode::Join => self.admit(parse(body)?).await,
            _ => Err(self.not_ours(call.opcode)),
        }
    }

    /// Answers a request that is about this server alone.
    pub(super) async fn answer_here(&self, call: &Call) -> Result<Vec<u8>, Error> {
        match call.opcode {
            Opcode::StorageResize => Ok(self.storage_resize(parse(&call.body)?).await?.to_bytes()),
            Opcode::SetLogMasks => Ok(self.set_log_masks(parse(&call.body)?).await?.to_bytes()),
            Opcode::Echo => Ok(call.body.to_vec()),
            _ => Err(self.not_ours(call.opcode)),
        }
    }

    /// Answers another server.
    pub(super) async fn answer_peer(self: &Rc<Self>, request: Request) -> Result<Vec<u8>, Error> {
        match request.opcode {
            Opcode::Consensus => self.consensus(&request.body).await,
            Opcode::Forward => self.forwarded(&request).await,
            Opcode::Propose => self.proposed(&request.body).await,
            Opcode::Report => self.reported(&request.body).await,
            Opcode::Join => {
                let join: wire::peer::Join = parse(&request.body)?;
                self.note_address(&join);
                self.route(Call::of(request)).await
            }
            Opcode::Subscribe => self.tell_news(&request.body).await,
            Opcode::Gossip => self.take_gossip(parse(&request.body)?),
            Opcode::ServerStorage => Ok(self.server_storage().await.to_bytes()),
            Opcode::ServerSpace => {
                let asked: wire::peer::ServerSpaceQuery = parse(&request.body)?;
                Ok(self.server_space(asked.pool).await?.to_bytes())
            }
            Opcode::ServerLog => {
                let wanted: wire::peer::ServerLog = parse(&request.body)?;
                super::administer::log_masks(&wanted.masks)?;
                Ok(().to_bytes())
            }
            other => Err(self.not_ours(other)),
        }
    }

    pub(super) fn not_ours(&self, opcode: Opcode) -> Error {
        let text = format!("{} is not a request for this service", opcode.name());
        Error::new(Code::Protocol, text).remedy("use a client of the server's release")
    }

    async fn change_system(&self, call: &Call, term: u64, command: SystemCommand) -> Result<Vec<u8>, Error> {
        self.system.propose(Some(term), call.name(), &command).await??;
        Ok(().to_bytes())
    }

    /// The token itself is nowhere but in the answer: a repeat after the leader changed makes another.
    async fn make_token(&self, _: &Call, term: u64, wanted: msg::TokenCreate) -> Result<msg::Token, Error> {
        if wanted.seconds == 0 || wanted.seconds > TOKEN_SECONDS_MAX {
            let text = format!("a token lasts 1 to {TOKEN_SECONDS_MAX} seconds, not {}", wanted.seconds);
            return Err(Error::new(Code::Invalid, text));
        }
        let mut secret = [0; 16];
        rt::random_bytes(&mut secret);
        let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let now = rt::wall_micros();
        let expires = now.saturating_add(Duration::from_secs(wanted.seconds).as_micros() as u64);
        let command = SystemCommand::AddToken { hash: hash(&token), expires, now };
        self.system.propose(Some(term), None, &command).await??;
        Ok(msg::Token { token, seconds: wanted.seconds })
    }

    pub(super) fn system_info(&self) -> msg::SystemInfo {
        let members = self.system.group.local(|system| {
            let member = |(rank, member): (&Rank, &super::system::Member)| msg::Member {
                rank: *rank,
                uuid: Bytes(member.id.to_bytes().to_vec()),
                address: member.address.clone(),
                fault_domain: member.fault_path.clone(),
                state: member.state,
                targets: member.targets,
                trouble: member.trouble.clone().filter(|_| member.state == MemberState::Excluded),
            };
            system.members.iter().map(member).collect()
        });
        msg::SystemInfo {
            name: self.system_name(),
            release: self.config.release.clone(),
            members,
            leader: self.system.group.standing().leader.map(|leader| leader.rank),
            voters: self.system.group.voters().into_iter().collect(),
        }
    }

    /// A request about a pool, to wherever its service is led.
    pub(super) async fn ask_pool<R: Wire>(
        self: &Rc<Self>,
        id: PoolId,
        opcode: Opcode,
        until: rt::Instant,
    ) -> Result<R, Error> {
        let body = msg::PoolName { pool: id.to_string() }.to_bytes();
        let answer = Box::pin(self.route(Call::own(opcode, body, until))).await?;
        parse(&answer)
    }
}

/// What is kept of a token.
pub(super) fn hash(token: &str) -> Hash {
    Bytes32(Sha256::digest(token.trim().as_bytes()).into())
}
