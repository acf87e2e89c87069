//! Gathers ids that several callers ask about into few calls.
//!
//! ```text
//!  callers ── ids ──> window: 100 ms without a new one, 1 s at most, or 500 ids ──> one call ──> each its answer
//!                                             an id fails the call for all ──> the others by themselves
//! ```
//!
//! EC2 fails a whole call for one id that it does not know, that is protected, or that the account's rights do not reach. It is
//! left out by its name in the message: of several that are denied the message names one, so n of them cost n calls more. If the
//! message names none, the ids are halved until it stands alone. What fails for all ends the asking.

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
/// Callers that wait to be heard.
const QUEUE: usize = 1024;

/// What a call says of each of its ids; one that is missing is not told of.
pub type Found<T> = BTreeMap<InstanceId, T>;
/// The call itself: all ids or an error.
pub type Call<T> = Arc<dyn Fn(Vec<InstanceId>) -> BoxFuture<'static, Result<Found<T>, Refusal>> + Send + Sync>;

/// For what a right to the call is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// For the call: who is denied it is denied it for every id.
    Whole,
    /// For each instance.
    Each,
}

/// What was told of each id. What is in neither EC2 does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    pub found: Found<T>,
    pub failed: BTreeMap<InstanceId, Refusal>,
}

impl<T> Answer<T> {
    /// Where one that fails fails all; what is wrong with an id itself makes it one that is not known.
    pub fn whole(self) -> Result<Found<T>, Refusal> {
        for (id, refusal) in self.failed {
            if refusal.verdict != Verdict::Refused {
                return Err(refusal);
            }
            tracing::warn!(%id, %refusal, "EC2 does not tell of this one");
        }
        Ok(self.found)
    }

    fn of(&self, ids: &[InstanceId]) -> Self
    where
        T: Clone,
    {
        Self { found: own(&self.found, ids), failed: own(&self.failed, ids) }
    }
}

fn own<T: Clone>(all: &BTreeMap<InstanceId, T>, ids: &[InstanceId]) -> BTreeMap<InstanceId, T> {
    ids.iter().filter_map(|id| Some((id.clone(), all.get(id)?.clone()))).collect()
}

struct Question<T> {
    ids: Vec<InstanceId>,
    answer: oneshot::Sender<Answer<T>>,
}

pub struct Window<T> {
    questions: mpsc::Sender<Question<T>>,
    _task: AbortOnDropHandle<()>,
}

impl<T: Clone + Send + Sync + 'static> Window<T> {
    pub fn new(call: Call<T>, rights: Rights) -> Self {
        let (questions, asked) = mpsc::channel(QUEUE);
        Self { questions, _task: AbortOnDropHandle::new(tokio::spawn(gather(asked, call, rights))) }
    }

    /// Asks together with others.
    pub async fn ask(&self, ids: Vec<InstanceId>) -> Answer<T> {
        if ids.is_empty() {
            return Answer { found: Found::new(), failed: BTreeMap::new() };
        }
        let (answer, answered) = oneshot::channel();
        let asked = ids.clone();
        if self.questions.send(Question { ids, answer }).await.is_ok()
            && let Ok(answer) = answered.await
        {
            return answer;
        }
        let ending = Refusal::unanswered("the process is ending");
        Answer { found: Found::new(), failed: asked.into_iter().map(|id| (id, ending.clone())).collect() }
    }
}

async fn gather<T: Clone + Send + Sync + 'static>(
    mut asked: mpsc::Receiver<Question<T>>,
    call: Call<T>,
    rights: Rights,
) {
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
            let mut all = Answer { found: Found::new(), failed: BTreeMap::new() };
            for ids in ids.chunks(MOST) {
                split(ids.to_vec(), &call, rights, &mut all).await;
            }
            for Question { ids, answer } in questions {
                // Who asked may have gone.
                let _ = answer.send(all.of(&ids));
            }
        });
    }
}

/// For which of its ids a call was refused.
enum Blamed {
    /// These, whatever is with the others.
    These(BTreeSet<InstanceId>),
    /// Some.
    Some,
    All,
}

fn blamed(refusal: &Refusal, ids: &[InstanceId], rights: Rights) -> Blamed {
    let each = match refusal.verdict {
        Verdict::NotFound | Verdict::Refused => true,
        Verdict::Denied => rights == Rights::Each && refusal.is_of_a_right(),
        _ => false,
    };
    let named: BTreeSet<InstanceId> = ids.iter().filter(|id| names(&refusal.message, id)).cloned().collect();
    match (each, ids) {
        (false, _) => Blamed::All,
        (true, [id]) => Blamed::These([id.clone()].into()),
        (true, _) if named.is_empty() => Blamed::Some,
        (true, _) => Blamed::These(named),
    }
}

/// Calls until of each id there is an answer. Each call that fails leaves fewer to ask for: it comes to an end.
async fn split<T: Send>(ids: Vec<InstanceId>, call: &Call<T>, rights: Rights, answer: &mut Answer<T>) {
    let mut rest = vec![ids];
    while let Some(ids) = rest.pop() {
        let refusal = match call(ids.clone()).await {
            Ok(some) => {
                answer.found.extend(some);
                continue;
            }
            Err(refusal) => refusal,
        };
        match blamed(&refusal, &ids, rights) {
            Blamed::These(these) => {
                let others: Vec<InstanceId> = ids.into_iter().filter(|id| !these.contains(id)).collect();
                if !others.is_empty() {
                    rest.push(others);
                }
                if refusal.verdict != Verdict::NotFound {
                    answer.failed.extend(these.into_iter().map(|id| (id, refusal.clone())));
                }
            }
            Blamed::Some => {
                let (left, right) = ids.split_at(ids.len() / 2);
                rest.extend([right.to_vec(), left.to_vec()]);
            }
            Blamed::All => {
                let unasked = std::mem::take(&mut rest).into_iter().flatten();
                answer.failed.extend(ids.into_iter().chain(unasked).map(|id| (id, refusal.clone())));
            }
        }
    }
}

fn names(message: &str, id: &InstanceId) -> bool {
    message.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == id.as_str())
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
        let window = Window::new(call, Rights::Whole);
        let (one, two, three) = tokio::join!(window.ask(ids([1, 2])), window.ask(ids([3])), window.ask(ids([2, 9])));
        assert_eq!(one.found.into_keys().collect::<Vec<_>>(), ids([1, 2]));
        assert_eq!(two.found.into_keys().collect::<Vec<_>>(), ids([3]));
        assert_eq!(three.found.into_keys().collect::<Vec<_>>(), ids([2]), "the unknown one is missing");
        assert_eq!(*calls.lock().unwrap(), [4, 3]);
    }

    #[tokio::test]
    async fn a_window_closes_when_it_is_full() {
        let (call, calls) = cloud(Vec::new(), true);
        let window = Window::new(call, Rights::Whole);
        let (one, two) = tokio::join!(window.ask(ids(0..600)), window.ask(ids(600..601)));
        assert_eq!((one.found.len(), two.found.len()), (600, 1));
        assert!(calls.lock().unwrap().iter().all(|count| *count <= MOST));
    }

    fn failing(refusal: Refusal) -> Call<u32> {
        Arc::new(move |_| {
            let answer = Err(refusal.clone());
            Box::pin(async move { answer })
        })
    }

    #[tokio::test]
    async fn another_error_is_everybodys_after_one_call_and_so_is_a_denial_of_the_call_itself() {
        let bare = Refusal::new("UnauthorizedOperation", "You are not authorized to perform this operation.");
        for (refusal, rights) in [
            (Refusal::new("InternalError", "m"), Rights::Each),
            (Refusal::new("AuthFailure", "m"), Rights::Each),
            (bare, Rights::Whole),
        ] {
            let answer = Window::new(failing(refusal.clone()), rights).ask(ids([1, 2])).await;
            let expected: Vec<_> = ids([1, 2]).into_iter().map(|id| (id, refusal.clone())).collect();
            assert_eq!(answer.failed.into_iter().collect::<Vec<_>>(), expected);
        }
    }

    #[tokio::test]
    async fn an_error_of_all_in_the_middle_leaves_what_was_done_before_it_done() {
        let tried = Arc::new(Mutex::new(0));
        let call: Call<u32> = Arc::new(move |asked: Vec<InstanceId>| {
            let mut tried = tried.lock().unwrap();
            *tried += 1;
            let answer = match *tried {
                1 => Err(Refusal::new("UnauthorizedOperation", "a message without a name")),
                2 => Ok(asked.into_iter().map(|id| (id, 7)).collect()),
                _ => Err(Refusal::new("RequestLimitExceeded", "m")),
            };
            Box::pin(async move { answer })
        });
        let answer = Window::new(call, Rights::Each).ask(ids(0..4)).await;
        assert_eq!(answer.found.into_keys().collect::<Vec<_>>(), ids([0, 1]));
        let failed = answer.failed.into_iter().map(|(id, refusal)| (id, refusal.verdict));
        let expected: Vec<_> = ids([2, 3]).into_iter().map(|id| (id, Verdict::BackOff)).collect();
        assert_eq!(failed.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn of_a_whole_answer_one_that_is_refused_for_itself_is_missing_and_any_other_failure_is_its() {
        let answer = |code: &str| Answer {
            found: Found::from([(InstanceId::new("i-1"), 7)]),
            failed: [(InstanceId::new("i-2"), Refusal::new(code, "m"))].into(),
        };
        assert_eq!(answer("InvalidInstanceID.Malformed").whole().unwrap().len(), 1);
        assert_eq!(answer("InternalError").whole(), Err(Refusal::new("InternalError", "m")));
    }

    /// What is with an id.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum With {
        Fine,
        Unknown,
        Denied,
        Protected,
    }

    /// How a cloud names those for which it fails a call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Naming {
        None,
        First,
        All,
    }

    #[derive(Default)]
    struct Done {
        calls: usize,
        ended: BTreeSet<InstanceId>,
    }

    /// As EC2: a call is done for all ids or fails for all. It judges rights first, then looks the ids up, then whether
    /// they may be ended.
    fn ending(those: Vec<With>, naming: Naming) -> (Call<()>, Arc<Mutex<Done>>) {
        let done = Arc::new(Mutex::new(Done::default()));
        let noted = Arc::clone(&done);
        let all: BTreeMap<InstanceId, With> = (0u32..).map(|n| ids([n])[0].clone()).zip(those).collect();
        let call: Call<()> = Arc::new(move |asked: Vec<InstanceId>| {
            let mut noted = noted.lock().unwrap();
            noted.calls += 1;
            assert!(!asked.is_empty());
            let of = |with| {
                let bad = asked.iter().filter(|id| all[*id] == with).map(InstanceId::as_str);
                let bad: Vec<&str> = bad.collect();
                let some = (!bad.is_empty()).then_some(bad);
                some.map(|bad| match naming {
                    Naming::None => String::new(),
                    Naming::First => format!("arn:aws:ec2:r:1:instance/{}", bad[0]),
                    Naming::All => format!("'{}'", bad.join(", ")),
                })
            };
            let answer = if let Some(named) = of(With::Denied) {
                Err(Refusal::new("UnauthorizedOperation", format!("not authorized on resource: {named} because")))
            } else if let Some(named) = of(With::Unknown) {
                Err(Refusal::new("InvalidInstanceID.NotFound", format!("the instance ids {named} do not exist")))
            } else if let Some(named) = of(With::Protected) {
                Err(Refusal::new("OperationNotPermitted", format!("the instance {named} may not be terminated")))
            } else {
                noted.ended.extend(asked.iter().cloned());
                Ok(asked.into_iter().map(|id| (id, ())).collect())
            };
            Box::pin(async move { answer })
        });
        (call, done)
    }

    /// Asks for all of them; how many calls it took.
    fn ended(those: &[With], naming: Naming) -> Result<usize, TestCaseError> {
        let (call, done) = ending(those.to_vec(), naming);
        let mut answer = Answer { found: Found::new(), failed: BTreeMap::new() };
        let all: Vec<InstanceId> = ids(0..u32::try_from(those.len()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(split(all.clone(), &call, Rights::Each, &mut answer));
        let of = |with: &[With]| -> BTreeSet<InstanceId> {
            all.iter().zip(those).filter(|(_, one)| with.contains(one)).map(|(id, _)| id.clone()).collect()
        };
        let done = done.lock().unwrap();
        prop_assert_eq!(&done.ended, &of(&[With::Fine]), "all that can be ended are, and nothing else");
        prop_assert_eq!(answer.found.into_keys().collect::<BTreeSet<_>>(), of(&[With::Fine]));
        let failed: Vec<(InstanceId, Verdict)> =
            answer.failed.into_iter().map(|(id, refusal)| (id, refusal.verdict)).collect();
        let expected: Vec<(InstanceId, Verdict)> = all
            .iter()
            .zip(those)
            .filter_map(|(id, with)| match with {
                With::Denied => Some((id.clone(), Verdict::Denied)),
                With::Protected => Some((id.clone(), Verdict::Refused)),
                With::Fine | With::Unknown => None,
            })
            .collect();
        prop_assert_eq!(failed, expected, "those that remain are named, each with its reason");
        Ok(done.calls)
    }

    #[test]
    fn of_five_hundred_many_may_be_denied_and_each_costs_a_call() {
        for denied in [0, 1, 9, 100, 499, 500] {
            let those: Vec<With> = (0..500).map(|n| if n < denied { With::Denied } else { With::Fine }).collect();
            let calls = ended(&those, Naming::First).unwrap();
            assert_eq!(calls, denied + usize::from(denied < 500), "{denied} are denied");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_with_some_of_them_all_others_are_ended_and_those_that_remain_are_named(
            those in prop::collection::vec(
                prop_oneof![6 => Just(With::Fine), 1 => Just(With::Unknown), 1 => Just(With::Denied), 1 => Just(With::Protected)],
                1..120,
            ),
            naming in prop_oneof![Just(Naming::None), Just(Naming::First), Just(Naming::All)],
        ) {
            let calls = ended(&those, naming)?;
            let bad = those.iter().filter(|with| **with != With::Fine).count();
            let most = match naming {
                Naming::All => 1 + 3,
                Naming::First => 1 + bad,
                // Down to each from all: seven halvings of 120, two calls each.
                Naming::None => 1 + bad * 14,
            };
            prop_assert!(calls <= most.min(2 * those.len()), "{calls} calls for {bad} of {}", those.len());
        }
    }
}
