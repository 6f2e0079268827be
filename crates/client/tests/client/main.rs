//! The client against a server made of maps: what it says, what it makes of the answers, and what
//! it does when answers do not come.

mod arrays;
mod fake;
mod faults;
mod handles;
mod objects;
mod servers;
mod simulated;
