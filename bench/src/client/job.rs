//! The calls of one request, one after the other: a state machine without IO.

use super::answer::Head;
use super::call::{Call, Expect, Method, Piece, Upload};
use super::errors::Failure;
use super::heads::query_value;
use super::xml;
use crate::workload::{Action, KeySpace, Object};

/// Largest object of one PUT (the limit of S3).
pub(crate) const PUT_BYTES_MAX: u64 = 5 << 30;
/// Parts of an upload (the limit of S3).
pub(crate) const PARTS_MAX: u64 = 10_000;

/// What a request is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) space: &'a KeySpace,
    /// Bytes of a part.
    pub(crate) part_size: u64,
    /// Keys of a page.
    pub(crate) page: u64,
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) head: &'a Head,
    /// The body where it was to be kept.
    pub(crate) document: &'a [u8],
}

/// What comes after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Call(Call),
    /// As `Call`; the latency counts from now.
    Timed(Call),
    Done,
}

#[derive(Debug)]
enum Step {
    /// The answer to the call that is out ends the request.
    Last,
    /// A write is out; the read comes next.
    Written,
    /// A HEAD is out; a write comes if the object is not there.
    Probed,
    /// An upload is being begun.
    Beginning,
    /// Part `part` is out.
    Part { upload: String, part: u64 },
    /// All parts are there, the upload is being completed.
    Completing { upload: String },
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) action: Action,
    step: Step,
    etags: Vec<String>,
}

impl Job {
    /// The request and its first call.
    pub(crate) fn start(action: Action, rules: Rules<'_>) -> (Self, Call) {
        let (step, call) = match action {
            Action::Get(object) => (Step::Last, get(object)),
            Action::GetRange {
                object,
                offset,
                length,
            } => (Step::Last, get_range(object, offset, length)),
            Action::Head(object) => (Step::Last, head(object, Expect::Head(object.size))),
            Action::Put(object) => write(object),
            Action::PutParts(object) => (Step::Beginning, begin(object)),
            Action::WriteThenRead(object) => (Step::Written, put(object)),
            Action::List { after, expected } => (Step::Last, page(rules, after, expected)),
            Action::Delete(object) => {
                let call = Call::new(Method::Delete, Some(object.index), Expect::Gone);
                (Step::Last, call)
            }
            Action::Ensure(object) => (Step::Probed, head(object, Expect::Probe(object.size))),
            Action::Bucket => (
                Step::Probed,
                Call::new(Method::Head, None, Expect::Probe(0)),
            ),
        };
        let job = Self {
            action,
            step,
            etags: Vec::new(),
        };
        (job, call)
    }

    /// Body bytes of the request that count.
    pub(crate) const fn bytes(&self) -> u64 {
        match self.action {
            Action::Get(object)
            | Action::Put(object)
            | Action::PutParts(object)
            | Action::WriteThenRead(object)
            | Action::Ensure(object) => object.size,
            Action::GetRange { length, .. } => length,
            Action::Head(_) | Action::List { .. } | Action::Delete(_) | Action::Bucket => 0,
        }
    }

    /// What ends the upload in parts of a failed request, if one was begun.
    pub(crate) fn abort(&self) -> Option<(Self, Call)> {
        let (Step::Part { upload, .. } | Step::Completing { upload }) = &self.step else {
            return None;
        };
        let (Action::PutParts(object) | Action::Put(object) | Action::Ensure(object)) = self.action
        else {
            return None;
        };
        let mut call = Call::new(Method::Delete, Some(object.index), Expect::Gone);
        call.query = format!("uploadId={}", query_value(upload));
        let job = Self {
            action: Action::Delete(object),
            step: Step::Last,
            etags: Vec::new(),
        };
        Some((job, call))
    }

    /// Takes a good answer to the call that was out.
    pub(crate) fn answered(
        &mut self,
        answer: &Answer<'_>,
        rules: Rules<'_>,
    ) -> Result<Next, Failure> {
        match (&mut self.step, self.action) {
            (Step::Written, Action::WriteThenRead(object)) => {
                self.step = Step::Last;
                Ok(Next::Timed(get(object)))
            }
            (Step::Probed, Action::Ensure(object)) => Ok(self.probed(answer.head, object)),
            (Step::Probed, Action::Bucket) if answer.head.status == 404 => {
                self.step = Step::Last;
                Ok(Next::Call(Call::new(Method::Put, None, Expect::Success)))
            }
            (
                Step::Beginning,
                Action::PutParts(object) | Action::Put(object) | Action::Ensure(object),
            ) => {
                let text = String::from_utf8_lossy(answer.document);
                let upload =
                    xml::element(&text, "UploadId").ok_or(Failure::Protocol("no UploadId"))?;
                Ok(self.part(object, upload, 1, rules))
            }
            (
                Step::Part { upload, part },
                Action::PutParts(object) | Action::Put(object) | Action::Ensure(object),
            ) => {
                let etag = answer
                    .head
                    .etag
                    .clone()
                    .ok_or(Failure::Protocol("a part without ETag"))?;
                self.etags.push(etag);
                let (upload, part) = (std::mem::take(upload), *part + 1);
                Ok(self.part(object, upload, part, rules))
            }
            _ => self.finished(answer, rules),
        }
    }

    /// CompleteMultipartUpload may fail after it said 200.
    fn finished(&self, answer: &Answer<'_>, rules: Rules<'_>) -> Result<Next, Failure> {
        let completing = matches!(self.step, Step::Completing { .. });
        if completing && memchr::memmem::find(answer.document, b"<Error>").is_some() {
            return Err(Failure::status(500, answer.document));
        }
        if let Action::List { after, expected } = self.action {
            judge_page(answer.document, rules.space, after, expected)?;
        }
        Ok(Next::Done)
    }

    fn probed(&mut self, found: &Head, object: Object) -> Next {
        if found.status == 200 && found.tagged && found.length == Some(object.size) {
            return Next::Done;
        }
        let (step, call) = write(object);
        self.step = step;
        Next::Call(call)
    }

    fn part(&mut self, object: Object, upload: String, part: u64, rules: Rules<'_>) -> Next {
        let offset = (part - 1) * rules.part_size;
        if offset >= object.size && part > 1 {
            let call = complete(object, &upload, &self.etags);
            self.step = Step::Completing { upload };
            return Next::Call(call);
        }
        let mut call = Call::new(Method::Put, Some(object.index), Expect::Success);
        call.query = format!("partNumber={part}&uploadId={}", query_value(&upload));
        call.upload = Upload::Piece(Piece {
            content: object.content,
            offset,
            length: rules.part_size.min(object.size - offset),
        });
        self.step = Step::Part { upload, part };
        Next::Call(call)
    }
}

/// Keys of a space have no gaps: a page has those right after `after`, in order. What
/// another run left behind the last object of this one has later names.
fn judge_page(document: &[u8], space: &KeySpace, after: u64, expected: u64) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(document);
    let (mut due, mut last) = (String::new(), String::new());
    for (number, found) in (0..).zip(xml::elements(&text, "Key")) {
        due.clear();
        let right = if number < expected {
            space.write_key(after + 1 + number, &mut due);
            found == due
        } else {
            due.push_str("a later key of the prefix");
            found.starts_with(space.prefix()) && found > last
        };
        if !right {
            let expected = due;
            return Err(Failure::Key { expected, found });
        }
        last = found;
    }
    Ok(())
}

const fn whole(object: Object) -> Piece {
    Piece {
        content: object.content,
        offset: 0,
        length: object.size,
    }
}

const fn get(object: Object) -> Call {
    Call::new(
        Method::Get,
        Some(object.index),
        Expect::Piece(whole(object)),
    )
}

fn get_range(object: Object, offset: u64, length: u64) -> Call {
    let piece = Piece {
        content: object.content,
        offset,
        length,
    };
    let mut call = Call::new(Method::Get, Some(object.index), Expect::Piece(piece));
    call.range = Some((offset, length));
    call
}

const fn head(object: Object, expect: Expect) -> Call {
    Call::new(Method::Head, Some(object.index), expect)
}

fn put(object: Object) -> Call {
    let mut call = Call::new(Method::Put, Some(object.index), Expect::Success);
    call.upload = Upload::Piece(whole(object));
    call.tag = true;
    call
}

/// One PUT while S3 takes it, parts above.
fn write(object: Object) -> (Step, Call) {
    if object.size > PUT_BYTES_MAX {
        return (Step::Beginning, begin(object));
    }
    (Step::Last, put(object))
}

fn begin(object: Object) -> Call {
    let mut call = Call::new(Method::Post, Some(object.index), Expect::Success);
    call.query = "uploads=".to_owned();
    call.tag = true;
    call
}

fn complete(object: Object, upload: &str, etags: &[String]) -> Call {
    let mut call = Call::new(Method::Post, Some(object.index), Expect::Success);
    call.query = format!("uploadId={}", query_value(upload));
    call.upload = Upload::Text(xml::complete(etags));
    call
}

fn page(rules: Rules<'_>, after: u64, expected: u64) -> Call {
    let mut call = Call::new(Method::Get, None, Expect::Page(expected, rules.page));
    call.query = format!(
        "list-type=2&max-keys={}&prefix={}&start-after={}",
        rules.page,
        query_value(rules.space.prefix()),
        query_value(&rules.space.key(after)),
    );
    call
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Sizes;

    fn space() -> KeySpace {
        KeySpace::new("p/", "t", Sizes::Fixed(25), 1)
    }

    fn head_of(status: u16) -> Head {
        Head {
            status,
            etag: Some("\"e\"".into()),
            ..Head::default()
        }
    }

    fn answer(job: &mut Job, head: &Head, document: &[u8]) -> Result<Next, Failure> {
        let space = space();
        let rules = Rules {
            space: &space,
            part_size: 10,
            page: 1000,
        };
        job.answered(&Answer { head, document }, rules)
    }

    fn start(action: Action) -> (Job, Call) {
        let space = space();
        let rules = Rules {
            space: &space,
            part_size: 10,
            page: 1000,
        };
        Job::start(action, rules)
    }

    fn call(next: Result<Next, Failure>) -> Call {
        match next {
            Ok(Next::Call(call)) => call,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_upload_in_parts() {
        let object = space().object(3);
        let (mut job, first) = start(Action::PutParts(object));
        assert_eq!(
            (first.method, first.query.as_str()),
            (Method::Post, "uploads=")
        );
        let mut next = call(answer(&mut job, &head_of(200), b"<UploadId>u/1</UploadId>"));
        for (part, length) in [(1, 10), (2, 10), (3, 5)] {
            assert_eq!(next.query, format!("partNumber={part}&uploadId=u%2F1"));
            assert_eq!(next.upload.length(), length);
            let (_, abort) = job.abort().unwrap();
            assert_eq!(
                (abort.method, abort.query.as_str()),
                (Method::Delete, "uploadId=u%2F1")
            );
            next = call(answer(&mut job, &head_of(200), b""));
        }
        assert_eq!(
            (next.method, next.query.as_str()),
            (Method::Post, "uploadId=u%2F1")
        );
        assert!(matches!(&next.upload, Upload::Text(t) if t.matches("<Part>").count() == 3));
        let failed = answer(
            &mut job,
            &head_of(200),
            b"<Error><Code>InternalError</Code></Error>",
        );
        assert!(matches!(failed, Err(Failure::Status { status: 500, .. })));
        assert_eq!(answer(&mut job, &head_of(200), b"<ok/>"), Ok(Next::Done));
    }

    #[test]
    fn prepared_objects_are_written_only_when_they_are_not_there() {
        let object = space().object(3);
        let there = Head {
            status: 200,
            length: Some(25),
            tagged: true,
            ..Head::default()
        };
        let (mut job, _) = start(Action::Ensure(object));
        assert_eq!(answer(&mut job, &there, b""), Ok(Next::Done));
        for wrong in [
            Head {
                status: 404,
                ..there.clone()
            },
            Head {
                length: Some(24),
                ..there.clone()
            },
            Head {
                tagged: false,
                ..there.clone()
            },
        ] {
            let (mut job, _) = start(Action::Ensure(object));
            let write = call(answer(&mut job, &wrong, b""));
            assert_eq!(
                (write.method, write.upload.length(), write.tag),
                (Method::Put, 25, true)
            );
            assert_eq!(answer(&mut job, &head_of(200), b""), Ok(Next::Done));
        }
    }

    #[test]
    fn a_read_after_a_write_is_timed_alone() {
        let object = space().object(3);
        let (mut job, first) = start(Action::WriteThenRead(object));
        assert_eq!(first.method, Method::Put);
        let next = answer(&mut job, &head_of(200), b"");
        assert!(matches!(
            next,
            Ok(Next::Timed(Call {
                method: Method::Get,
                ..
            }))
        ));
        assert_eq!(answer(&mut job, &head_of(200), b""), Ok(Next::Done));
    }
}
