//! What servers tell one another of who lives: a [`GossipHeader`], then any number of [`News`].
//!
//! Each goes in one request and has no answer of its own; what it asks is answered by another message, or not at all.

use types::Rank;

use crate::encoding::message;

message! {
    /// One life of a server: `start` grows with each start, `renewed` each time it was wrongly taken for dead.
    pub struct Life {
        pub rank: Rank,
        pub start: u64,
        pub renewed: u32,
    }
}

message! {
    /// What is asked or answered; `number` says which question.
    pub enum GossipKind {
        /// Are you there?
        Ping { number: u8 } = 1,
        Ack { number: u8 } = 2,
        /// Ask `target` for me.
        PingRequest { number: u8, target: Life } = 3,
        /// `origin` wants to know whether you are there.
        IndirectPing { number: u8, origin: Life } = 4,
        /// Tell `target` that I am.
        IndirectAck { number: u8, target: Life } = 5,
        /// `origin` is there.
        ForwardedAck { number: u8, origin: Life } = 6,
        /// I am new. Answered with all who live.
        Announce = 7,
        Feed = 8,
        /// News, and nothing else.
        Gossip = 9,
        Broadcast = 10,
        /// You count as dead.
        TakenForDead = 11,
    }
}

message! {
    /// Begins each message. `incarnation` counts what the sender refuted in this life.
    pub struct GossipHeader {
        pub from: Life,
        pub incarnation: u32,
        pub to: Life,
        pub kind: GossipKind,
    }
}

message! {
    #[derive(Copy)]
    pub enum Liveness {
        Alive = 1,
        Suspect = 2,
        Down = 3,
    }
}

message! {
    /// What the sender has heard of a server.
    pub struct News {
        pub life: Life,
        pub incarnation: u32,
        pub state: Liveness,
    }
}
