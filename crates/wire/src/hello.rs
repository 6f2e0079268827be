//! The first words on a link: who calls whom, and within what bounds.

use crate::encoding::message;

message! {
    /// Which service of a server a link is for. The server moves the link to that service's thread.
    pub enum Service {
        /// System, pools, containers.
        Control = 1,
        /// The data of one target.
        Target { index: u32 } = 2,
    }
}

message! {
    /// Caller to server, once, first. A repeat closes the link.
    pub struct Hello {
        /// Oldest and newest frame version the caller speaks.
        pub oldest: u8,
        pub newest: u8,
        pub service: Service,
        /// The caller's session; a number it drew at random when it started.
        pub session: u64,
        /// Name of the system the caller means, so that a wrong address is noticed; empty for whichever it is.
        pub system: String,
    }
}

message! {
    /// Server to caller, once, first.
    pub struct Welcome {
        /// The frame version both speak.
        pub version: u8,
        /// Most requests the caller may have under way on this link.
        pub request_credits: u32,
        /// Most bulk bytes the caller may have under way on this link, sent and not yet answered.
        pub bulk_credits: u32,
        /// This start of the server: another number after a restart.
        pub incarnation: u64,
        pub system: String,
    }
}
