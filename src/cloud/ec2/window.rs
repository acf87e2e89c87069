//! Gathers ids that several callers ask about into few calls.
//!
//! ```text
//!  callers ── ids ──> window: 100 ms without a new one, 1 s at most, or 500 ids ──> one call ──> each its answer
//!                                                       an id is not known ──> the others by themselves
//! ```
//!
//! EC2 fails a whole call for one id that it does not know; then the unknown one is left out by its name in the
//! message, or, if the message names none, the ids are halved until it stands alone. A right that is bound to a tag is denied
//! for what is gone, which has none, and by its name too: some of those are left out as well.

use super::refusal::{Refusal, Verdict};
use crate::model::InstanceId;
use futures::future::BoxFuture;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

/// As karpenter-provider-aws batches its calls of these kinds.
const IDLE: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// EC2 takes a thousand.
const MOST: usize = 500;
/// Denied ones that are left out of a question. Where nothing is allowed any more, each would be denied in its turn.
const MOST_DENIED: usize = 8;
/// Callers that wait to be heard.
const QUEUE: usize = 1024;

/// What a call says of each of its ids; one that is missing is not told of.
pub type Found<T> = BTreeMap<InstanceId, T>;
/// The call itself: all ids or an error.
pub type Call<T> = Arc<dyn Fn(Vec<InstanceId>) -> BoxFuture<'static, Result<Found<T>, Refusal>> + Send + Sync>;

struct Question<T> {
    ids: Vec<InstanceId>,
    answer: oneshot::Sender<Result<Found<T>, Refusal>>,
}

pub struct Window<T> {
    questions: mpsc::Sender<Question<T>>,
    _task: AbortOnDropHandle<()>,
}

impl<T: Clone + Send + Sync + 'static> Window<T> {
    pub fn new(call: Call<T>) -> Self {
        let (questions, asked) = mpsc::channel(QUEUE);
        Self { questions, _task: AbortOnDropHandle::new(tokio::spawn(gather(asked, call))) }
    }

    /// Asks together with others. What EC2 does not know is missing in the answer.
    pub async fn ask(&self, ids: Vec<InstanceId>) -> Result<Found<T>, Refusal> {
        if ids.is_empty() {
            return Ok(Found::new());
        }
        let (answer, answered) = oneshot::channel();
        let ended = || Refusal::unanswered("the process is ending");
        self.questions.send(Question { ids, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

async fn gather<T: Clone + Send + Sync + 'static>(mut asked: mpsc::Receiver<Question<T>>, call: Call<T>) {
    let mut calls = JoinSet::new();
    loop {
        let first = tokio::select! {
            question = asked.recv() => question,
            Some(_) = calls.join_next() => continue,
        };
        let Some(first) = first else { return };
        let mut count = first.ids.len();
        let mut questions = vec![first];
        let latest = Instant::now() + LONGEST;
        while count < MOST {
            let until = latest.min(Instant::now() + IDLE);
            let Ok(Some(question)) = timeout_at(until, asked.recv()).await else { break };
            count += question.ids.len();
            questions.push(question);
        }
        let call = Arc::clone(&call);
        calls.spawn(async move {
            let ids: BTreeSet<InstanceId> = questions.iter().flat_map(|q| q.ids.iter().cloned()).collect();
            let ids: Vec<InstanceId> = ids.into_iter().collect();
            let mut found = Ok(Found::new());
            for ids in ids.chunks(MOST) {
                found = match (found, split(ids.to_vec(), &call).await) {
                    (Ok(mut all), Ok(more)) => {
                        all.extend(more);
                        Ok(all)
                    }
                    (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
                };
            }
            for Question { ids, answer } in questions {
                let own = found
                    .as_ref()
                    .map_err(Clone::clone)
                    .map(|found| ids.iter().filter_map(|id| Some((id.clone(), found.get(id)?.clone()))).collect());
                // Who asked may have gone.
                let _ = answer.send(own);
            }
        });
    }
}

/// Calls, and again without the ids that are not known, and those that are refused (one with termination protection, say):
/// the others are not to suffer for them.
async fn split<T: Send>(ids: Vec<InstanceId>, call: &Call<T>) -> Result<Found<T>, Refusal> {
    let mut found = Found::new();
    let mut denied = 0;
    let mut rest = vec![ids];
    while let Some(ids) = rest.pop() {
        let refusal = match call(ids.clone()).await {
            Ok(some) => {
                found.extend(some);
                continue;
            }
            Err(refusal) if refusal.verdict == Verdict::NotFound => refusal,
            Err(refusal) if refusal.verdict == Verdict::Refused => {
                if let [id] = &ids[..] {
                    tracing::warn!(%id, %refusal, "EC2 does not do it for this one");
                    continue;
                }
                refusal
            }
            Err(refusal) if refusal.verdict == Verdict::Denied && ids.len() > 1 && denied < MOST_DENIED => {
                let Some(id) = ids.iter().find(|id| names(&refusal.message, id)) else { return Err(refusal) };
                tracing::warn!(%id, %refusal, "EC2 does not let us do it for this one");
                denied += 1;
                refusal
            }
            Err(refusal) => return Err(refusal),
        };
        rest.extend(without_unknown(ids, &refusal.message));
    }
    Ok(found)
}

fn names(message: &str, id: &InstanceId) -> bool {
    message.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == id.as_str())
}

/// What to ask instead. Pure; always fewer ids, so it comes to an end.
fn without_unknown(ids: Vec<InstanceId>, message: &str) -> Vec<Vec<InstanceId>> {
    let known: Vec<InstanceId> = ids.iter().filter(|id| !names(message, id)).cloned().collect();
    let parts = if known.len() < ids.len() {
        vec![known]
    } else if ids.len() == 1 {
        Vec::new()
    } else {
        let (left, right) = ids.split_at(ids.len() / 2);
        vec![left.to_vec(), right.to_vec()]
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    fn ids(numbers: impl IntoIterator<Item = u32>) -> Vec<InstanceId> {
        numbers.into_iter().map(|n| InstanceId::new(format!("i-{n:04x}"))).collect()
    }

    /// A cloud that knows some ids, fails whole for any other, and counts its calls.
    fn cloud(unknown: Vec<InstanceId>, names: bool) -> (Call<u32>, Arc<Mutex<Vec<usize>>>) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&calls);
        let call: Call<u32> = Arc::new(move |ids: Vec<InstanceId>| {
            noted.lock().unwrap().push(ids.len());
            let bad: Vec<&str> = ids.iter().filter(|id| unknown.contains(id)).map(InstanceId::as_str).collect();
            let answer = if bad.is_empty() {
                Ok(ids.iter().map(|id| (id.clone(), 7)).collect())
            } else {
                let named =
                    if names { format!("The instance IDs '{}' do not exist", bad.join(", ")) } else { "no".to_owned() };
                Err(Refusal::new("InvalidInstanceID.NotFound", named))
            };
            Box::pin(async move { answer })
        });
        (call, calls)
    }

    #[tokio::test]
    async fn those_who_ask_at_once_share_a_call_and_each_gets_its_own() {
        let (call, calls) = cloud(ids([9]), true);
        let window = Window::new(call);
        let (one, two, three) = tokio::join!(window.ask(ids([1, 2])), window.ask(ids([3])), window.ask(ids([2, 9])));
        assert_eq!(one.unwrap().into_keys().collect::<Vec<_>>(), ids([1, 2]));
        assert_eq!(two.unwrap().into_keys().collect::<Vec<_>>(), ids([3]));
        assert_eq!(three.unwrap().into_keys().collect::<Vec<_>>(), ids([2]), "the unknown one is missing");
        assert_eq!(*calls.lock().unwrap(), [4, 3]);
    }

    #[tokio::test]
    async fn a_window_closes_when_it_is_full() {
        let (call, calls) = cloud(Vec::new(), true);
        let window = Window::new(call);
        let (one, two) = tokio::join!(window.ask(ids(0..600)), window.ask(ids(600..601)));
        assert_eq!((one.unwrap().len(), two.unwrap().len()), (600, 1));
        assert!(calls.lock().unwrap().iter().all(|count| *count <= MOST));
    }

    #[tokio::test]
    async fn another_error_is_everybodys() {
        let call: Call<u32> = Arc::new(|_| Box::pin(async { Err(Refusal::new("InternalError", "m")) }));
        let window = Window::new(call);
        assert_eq!(window.ask(ids([1])).await, Err(Refusal::new("InternalError", "m")));
    }

    #[tokio::test]
    async fn one_that_is_refused_does_not_keep_the_others_from_their_answer() {
        let call: Call<u32> = Arc::new(|asked: Vec<InstanceId>| {
            let protected = asked.contains(&ids([3])[0]);
            let answer = match protected {
                true => Err(Refusal::new("OperationNotPermitted", "it may not be terminated")),
                false => Ok(asked.into_iter().map(|id| (id, 7)).collect()),
            };
            Box::pin(async move { answer })
        });
        let found = Window::new(call).ask(ids(0..6)).await.unwrap();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ids([0, 1, 2, 4, 5]));
    }

    /// A cloud that denies these, as EC2 does: the first by its name.
    fn denying(these: Vec<InstanceId>) -> Call<u32> {
        Arc::new(move |asked: Vec<InstanceId>| {
            let answer = match asked.iter().find(|id| these.contains(id)) {
                Some(id) => Err(Refusal::new(
                    "UnauthorizedOperation",
                    format!(
                        "not authorized to perform: ec2:TerminateInstances on resource: arn:aws:ec2:r:1:instance/{id} because"
                    ),
                )),
                None => Ok(asked.into_iter().map(|id| (id, 7)).collect()),
            };
            Box::pin(async move { answer })
        })
    }

    #[tokio::test]
    async fn one_that_is_denied_by_its_name_does_not_keep_the_others_either_and_where_all_are_it_is_told() {
        let found = Window::new(denying(ids([2, 5]))).ask(ids(0..6)).await.unwrap();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ids([0, 1, 3, 4]));
        for count in [1, 2, 300] {
            let refusal = Window::new(denying(ids(0..count))).ask(ids(0..count)).await.unwrap_err();
            assert_eq!(refusal.verdict, Verdict::Denied, "{count}");
        }
    }

    proptest! {
        #[test]
        fn all_that_are_known_are_found_whatever_the_message_says(
            count in 1u32..60,
            unknown in prop::collection::btree_set(0u32..60, 0..6),
            names in any::<bool>(),
        ) {
            let (call, calls) = cloud(ids(unknown.clone()), names);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let found = runtime.block_on(split(ids(0..count), &call)).unwrap();
            let expected: BTreeSet<InstanceId> = ids((0..count).filter(|n| !unknown.contains(n))).into_iter().collect();
            prop_assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), expected);
            prop_assert!(calls.lock().unwrap().len() <= 2 + unknown.len() * 14);
        }
    }
}
