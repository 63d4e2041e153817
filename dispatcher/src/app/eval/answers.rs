//! What was said in a benchmark's run, and in those that tried again what had failed in it.

use crate::archive;
use crate::eval::Case;
use crate::eval::report::{Answered, Said};
use captionfleet_proto::job::RunId;
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::rows::{Answer, Row, Status};
use captionfleet_proto::storage::Storage;
use captionfleet_proto::uri::ItemUri;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// By picture.
type ByPicture<T> = HashMap<String, Vec<T>>;

/// The cases in their order with what was said; a picture's answers stand in the order of its cases. A picture that failed
/// has the answers of another run which asked the same of the same model, as a service's retry does.
pub(super) async fn answers<'a>(
    archive: &dyn Storage,
    run: &RunId,
    cases: &'a [Case],
) -> anyhow::Result<Vec<Answered<'a>>> {
    let mut asked: ByPicture<&str> = HashMap::new();
    for case in cases {
        let questions = asked.entry(uri(case)?).or_default();
        questions.extend((!case.question.is_empty()).then_some(&*case.question));
    }
    let mut said = HashMap::new();
    read(archive, run, &asked, &mut said).await?;
    if said.len() < asked.len() {
        for other in alike(archive, run).await? {
            read(archive, &other, &asked, &mut said).await?;
        }
    }
    let mut said: HashMap<_, _> = said.into_iter().map(|(uri, said)| (uri, said.into_iter())).collect();
    let answered = |case| Ok((case, said.get_mut(&uri(case)?).and_then(Iterator::next)));
    cases.iter().map(answered).collect()
}

fn uri(case: &Case) -> anyhow::Result<String> {
    Ok(ItemUri::from_path(&case.picture)?.to_string())
}

/// The other runs of the same wish, the oldest first.
async fn alike(archive: &dyn Storage, run: &RunId) -> anyhow::Result<Vec<RunId>> {
    // One that cannot be read is as if it were not there: its answers are nobody's first choice.
    let (manifests, _) = archive::manifests(archive).await?;
    let wish = |manifest: &RunManifest| (manifest.prompt_hash.clone(), manifest.bundle.clone());
    let own = manifests.iter().find(|manifest| manifest.run == *run).map(wish);
    let others = manifests.iter().filter(|other| other.run != *run && Some(wish(other)) == own);
    Ok(others.map(|other| other.run.clone()).collect())
}

/// Adds what a run says about pictures of which nothing is known yet.
async fn read(
    archive: &dyn Storage,
    run: &RunId,
    asked: &ByPicture<&str>,
    said: &mut ByPicture<Said>,
) -> anyhow::Result<()> {
    for (_, key) in archive::parts(archive, Some(run)).await?.into_values().flatten() {
        for row in archive::rows(archive, key).await? {
            let Some(questions) = asked.get(row.item.as_str()) else { continue };
            if let Entry::Vacant(place) = said.entry(row.item.to_string())
                && let Some(answers) = answers_to(questions, row)
            {
                place.insert(answers);
            }
        }
    }
    Ok(())
}

/// What a row says, if it is about these questions.
fn answers_to(questions: &[&str], row: Row) -> Option<Vec<Said>> {
    if row.status != Status::Ok {
        return None;
    }
    let Some(answers) = row.answers else {
        let caption = row.caption.map(|text| Said { text, probability: None });
        return questions.is_empty().then(|| caption.into_iter().collect());
    };
    let same = answers.iter().map(|answer| &*answer.question).eq(questions.iter().copied());
    let said = |answer: Answer| Said { text: answer.answer, probability: answer.probability };
    same.then(|| answers.into_iter().map(said).collect())
}
