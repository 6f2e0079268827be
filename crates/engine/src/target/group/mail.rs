//! Letters to other targets: those that are there at a moment go as one message, whatever groups they are of.
//!
//! ```text
//!   letter, letter, letter --> post --> mail --- one message --> member: all of it, one log write
//!                               ^                                  |
//!                               +-- the next gathers meanwhile <---+ answers, one message
//! ```
//! While a mail is on its way, the next gathers: the more there is to say, the more of it goes together, and a letter
//! alone goes at once. A letter is written when its mail leaves, so that it says all that was decided by then, and only the
//! first of a group does.
//!
//! # Always true
//! 1. Letters to a target leave in the order in which they were posted, those with bulk data apart.
//! 2. Of what waits, each letter belongs to a request or a task that a bound holds for; a mail has bounds of its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use types::{Code, Error};
use wire::group::{GroupAnswers, GroupMail, GroupRequest, GroupResponse};
use wire::{Opcode, Wire};

use super::Target;
use super::peers::Link;
use super::view::View;
use crate::replication::Peer;

/// Letters of one mail.
pub(super) const LETTERS_MAX: usize = 128;
/// Bytes of clients' requests in one mail, if it has more than one letter. With decisions it stays within a frame.
const MAIL_BYTES_MAX: usize = 256 << 10;
/// A mail that is not answered for so long holds up the next no more: some letter of it waits for something.
const UNANSWERED_MAX: Duration = Duration::from_millis(20);

/// Numbers mails to one target.
pub(super) type MailNumber = u64;

/// Writes a letter for a mail; nothing when there is nothing to say any more.
type Write = Box<dyn FnOnce(MailNumber) -> Option<GroupRequest>>;

/// What waits for the next mail to one target.
#[derive(Default)]
pub(super) struct Post {
    waiting: RefCell<VecDeque<Waiting>>,
    /// A task sees to it.
    is_attended: Cell<bool>,
    mails: Cell<MailNumber>,
}

struct Waiting {
    write: Write,
    /// Of the client's request in it.
    bytes: usize,
    answer: oneshot::Sender<Result<GroupResponse, Error>>,
}

/// Letters that go together, and who waits for their answers.
struct Mail {
    letters: Vec<GroupRequest>,
    answers: Vec<oneshot::Sender<Result<GroupResponse, Error>>>,
}

impl Post {
    fn next_number(&self) -> MailNumber {
        self.mails.set(self.mails.get() + 1);
        self.mails.get()
    }

    /// What goes now; `None`: nothing waits.
    fn collect(&self) -> Option<Mail> {
        let (number, mut bytes) = (self.next_number(), 0);
        let mut mail = Mail { letters: Vec::new(), answers: Vec::new() };
        while mail.letters.len() < LETTERS_MAX {
            let next = {
                let mut waiting = self.waiting.borrow_mut();
                let fits = |next: &Waiting| mail.letters.is_empty() || bytes + next.bytes <= MAIL_BYTES_MAX;
                match waiting.front().is_some_and(fits) {
                    true => waiting.pop_front(),
                    false => None,
                }
            };
            let Some(Waiting { write, bytes: more, answer }) = next else { break };
            // Who waits for what is not written any more hears that nobody will answer.
            if let Some(letter) = write(number) {
                bytes += more;
                mail.letters.push(letter);
                mail.answers.push(answer);
            }
        }
        Some(mail).filter(|mail| !mail.letters.is_empty())
    }
}

impl Target {
    /// Sends another target a letter, with the next mail, and waits for its answer. One with bulk data goes at once, alone.
    ///
    /// # Errors
    /// Nobody knows whether it did what was asked, unless it said that it did not.
    pub(super) async fn write_to(
        self: &Rc<Self>,
        view: &Rc<View>,
        peer: Peer,
        bytes: usize,
        bulk: Option<Bytes>,
        write: impl FnOnce(MailNumber) -> Option<GroupRequest> + 'static,
    ) -> Result<GroupResponse, Error> {
        let past = || Error::new(Code::Again, "there was nothing to say any more");
        let (link, _) = self.groups.peers.link(view, peer)?;
        if bulk.is_some() {
            let letter = write(link.post.next_number()).ok_or_else(past)?;
            return self.deliver_one(view, peer, letter, bulk).await;
        }
        let (answer, answered) = oneshot::channel();
        link.post.waiting.borrow_mut().push_back(Waiting { write: Box::new(write), bytes, answer });
        if !link.post.is_attended.replace(true) {
            drop(rt::spawn_local(self.clone().attend(link, view.clone(), peer)));
        }
        answered.await.unwrap_or_else(|_| Err(past()))
    }

    /// Sends what waits for a target, mail by mail, until nothing does.
    async fn attend(self: Rc<Self>, link: Rc<Link>, view: Rc<View>, peer: Peer) {
        loop {
            // What others have for it at this moment goes along.
            rt::yield_now().await;
            let mail = link.post.collect();
            let Some(Mail { letters, answers }) = mail else {
                if link.post.waiting.borrow().is_empty() {
                    link.post.is_attended.set(false);
                    return;
                }
                continue;
            };
            let (this, view) = (self.clone(), view.clone());
            let carried = rt::spawn_local(async move {
                let delivered = this.deliver(&view, peer, letters, None).await;
                match delivered {
                    Ok(all) => answers.into_iter().zip(all).for_each(|(waits, answer)| drop(waits.send(said(answer)))),
                    Err(error) => answers.into_iter().for_each(|waits| drop(waits.send(Err(error.clone())))),
                }
            });
            // It goes on by itself.
            let _ = rt::timeout(UNANSWERED_MAX, carried).await;
        }
    }

    /// Sends a letter by itself, at once.
    ///
    /// # Errors
    /// As of [`Target::write_to`].
    pub(super) async fn deliver_one(
        &self,
        view: &View,
        peer: Peer,
        letter: GroupRequest,
        bulk: Option<Bytes>,
    ) -> Result<GroupResponse, Error> {
        let answers = self.deliver(view, peer, vec![letter], bulk).await?;
        said(answers.into_iter().next().expect("as many as letters"))
    }

    /// Sends one mail. The answers are as many as the letters.
    async fn deliver(
        &self,
        view: &View,
        peer: Peer,
        letters: Vec<GroupRequest>,
        bulk: Option<Bytes>,
    ) -> Result<Vec<GroupResponse>, Error> {
        let count = letters.len();
        // Repeats are harmless, so that none has to be told by its number.
        let mail = GroupMail { letters }.to_bytes();
        let reply = self.groups.peers.ask(view, peer, Opcode::Group, mail, bulk).await?;
        let answers = GroupAnswers::from_bytes(&reply.body).map(|answers| answers.answers);
        match answers {
            Ok(answers) if answers.len() == count => Ok(answers),
            Ok(answers) => {
                let text = format!("{peer} gave {} answers to {count} letters", answers.len());
                Err(Error::new(Code::Protocol, text))
            }
            Err(error) => Err(Error::new(Code::Protocol, format!("the answer of {peer} does not decode: {error}"))),
        }
    }
}

/// A failure of one letter is an error, as one of the whole mail is.
fn said(answer: GroupResponse) -> Result<GroupResponse, Error> {
    match answer {
        GroupResponse::Failed { error } => Err(error),
        answer => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use types::{Epoch, PoolId, Rank, TargetIndex};
    use wire::group::{GroupChange, GroupPeer, GroupStep, GroupTerm};

    use super::*;

    fn letter(group: u32) -> GroupRequest {
        let term = GroupTerm { interval: 1, round: 0 };
        GroupRequest {
            pool: PoolId::from_bytes([1; 16]),
            group,
            map_version: 1,
            from: GroupPeer { rank: Rank(0), target: TargetIndex(0) },
            term,
            decided: Vec::new(),
            settled: GroupChange { term, number: 0 },
            closed: Epoch::ZERO,
            step: GroupStep::Tell,
        }
    }

    /// Posts a letter of a group with so many bytes; of group zero there is nothing to say any more.
    fn post(post: &Post, group: u32, bytes: usize) -> oneshot::Receiver<Result<GroupResponse, Error>> {
        let (answer, answered) = oneshot::channel();
        let write: Write = Box::new(move |_| Some(letter(group)).filter(|letter| letter.group > 0));
        post.waiting.borrow_mut().push_back(Waiting { write, bytes, answer });
        answered
    }

    fn groups(mail: Option<Mail>) -> Vec<u32> {
        mail.map(|mail| mail.letters.iter().map(|letter| letter.group).collect()).unwrap_or_default()
    }

    #[test]
    fn what_waits_goes_together_in_its_order() {
        let to = Post::default();
        let waits: Vec<_> = [3, 1, 0, 2].into_iter().map(|group| post(&to, group, 100)).collect();
        let mail = to.collect().unwrap();
        assert_eq!(mail.answers.len(), 3);
        for answer in mail.answers {
            answer.send(Ok(GroupResponse::Done)).unwrap();
        }
        let heard: Vec<bool> = waits.into_iter().map(|mut answer| answer.try_recv().is_ok()).collect();
        assert_eq!(heard, [true, true, false, true], "who has nothing to say any more hears that nobody answers");
        assert_eq!(groups(to.collect()), []);
    }

    #[test]
    fn a_mail_has_bounds_and_the_rest_goes_with_the_next() {
        let to = Post::default();
        let _waits: Vec<_> = (1..=LETTERS_MAX as u32 + 2).map(|group| post(&to, group, 1)).collect();
        assert_eq!(to.collect().unwrap().letters.len(), LETTERS_MAX);
        assert_eq!(groups(to.collect()), [LETTERS_MAX as u32 + 1, LETTERS_MAX as u32 + 2]);
        // One that is larger than a mail goes alone.
        let large = [(1, MAIL_BYTES_MAX - 1), (2, 2), (3, MAIL_BYTES_MAX * 3), (4, 0)];
        let _waits: Vec<_> = large.into_iter().map(|(group, bytes)| post(&to, group, bytes)).collect();
        assert_eq!(groups(to.collect()), [1]);
        assert_eq!(groups(to.collect()), [2]);
        assert_eq!(groups(to.collect()), [3]);
        assert_eq!(groups(to.collect()), [4]);
    }
}
