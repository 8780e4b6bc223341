//! `POST /upload` and `GET /results/{id}`

use chrono::DateTime;
use eirs_platform::{
    job::{self, Guess, JobId, Outcome, Reply},
    settings::Model,
};
use poem::http::Method;
use poem_openapi::{
    registry::{
        MetaHeader, MetaMediaType, MetaOperation, MetaOperationParam, MetaParamIn, MetaPath, MetaRequest,
        MetaResponse, MetaSchema, MetaTag, Registry,
    },
    types::Type,
};
use serde_json::json;

use super::parts::{
    answer, body, header, inline, media, operation, path, query, refusal, retry_after, storage, text,
    too_often,
};
use crate::{
    problem::Problem,
    upload::{
        FIELDS, TYPES,
        answer::{Failed, Finished, Line, Pending, finished},
        traced,
    },
};

const TAG: &str = "images";

pub(super) fn register(registry: &mut Registry) {
    registry.create_tag(MetaTag {
        name: TAG,
        description: Some("Images and their labels."),
        external_docs: None,
    });
    Line::register(registry);
}

pub(super) fn upload() -> MetaPath {
    const ABOUT: &str = "\
The image comes in a form, in the field `myfile` (`file`, `image` and `inputFile` work, too), or as the bare body. Its type is \
told by its bytes: JPEG, PNG, WebP, GIF, BMP, TIFF, ICO, PNM or QOI.

The answer is the label, as text; for `Accept: application/json` it is JSON, with confidences. Whoever waits longer than \
`wait` gets a 202 that says where the result will be.

Several images in one form are answered 200 with a line of JSON for each, in the order in which they finish. What becomes of \
one of them is no matter of the others, and in its line only.

```
curl -F myfile=@heart.jpg http://127.0.0.1:8000/upload
curl -H 'Accept: application/json' --data-binary @heart.jpg 'http://127.0.0.1:8000/upload?name=heart.jpg&top=3'
curl -F myfile=@heart.jpg -F myfile=@star.jpg http://127.0.0.1:8000/upload
curl -i -F myfile=@heart.jpg 'http://127.0.0.1:8000/upload?wait=0'
```";
    let name = MetaSchema { example: Some(json!("heart.jpg")), ..MetaSchema::new("string") };
    let params = vec![
        query(
            "wait",
            "How long to wait for the label: `60s`, `1m`, or seconds. `0` returns immediately.",
            wait(),
        ),
        model(),
        top(),
        query(
            "fresh",
            "`1` classifies the image also where its result is known, and stores the new one in its place.",
            MetaSchema {
                pattern: Some("^(0|1|true|false)?$".to_owned()),
                example: Some(json!("1")),
                ..MetaSchema::new("string")
            },
        ),
        query("name", "The name of an image that is the bare body. It is shown, and means nothing.", name),
    ];
    let mut responses = vec![
        answer(
            200,
            "The label, or a line for each of several images.",
            vec![
                text("text/plain", "heart"),
                body::<Finished<'_>>("application/json", example_result(&example())),
                lines(),
            ],
        ),
        pending(),
        refusal(
            "`no image`: there is none in the request, or an empty one. `bad request`: a parameter or the form is broken.",
            &[
                Problem::no_image("there is no image in the field `photo`; send it in the field `myfile`"),
                Problem::bad_request("top: should be a number from 1 on, like `?top=3`"),
            ],
        ),
        refusal("`not found`: there is no such model.", &[Problem::not_found("there is no model `dogs`")]),
        refusal(
            "`upload too slow`: the client paused for too long in the middle of its upload, or sent too little for too long.",
            &[Problem::too_slow("nothing came for 15 seconds")],
        ),
        refusal(
            "`too large`: an image has too many bytes, or there are too many images.",
            &[Problem::too_large("an image may have at most 16777216 bytes")],
        ),
        refusal(
            "`unsupported image type`: what came is nothing that EIRS reads. `unsupported encoding`: it is packed in a way that EIRS \
             does not read. Nothing was stored.",
            &[Problem::not_an_image(), Problem::unknown_encoding("br")],
        ),
    ];
    responses.extend(no_label());
    responses.extend([
        refusal(
            "`too many uploads`: there is no room for one more at the moment. `too many requests`: this address, or this \
             token, sends more than it may.",
            &[Problem::too_many_uploads("this server"), too_often()],
        ),
        refusal(
            "`backlog full`: the queue takes no new images now. `shutting down`: another server will answer. `no room`: too much \
             is being uploaded. `not queued`: storing took too long. `storage unavailable`: the image could not be stored.",
            &[Problem::backlog_full(12), Problem::draining(), Problem::no_room(), Problem::not_queued(), storage()],
        ),
        refusal(
            "`storage full`: there is no room for new images at the moment. Nothing was stored.",
            &[Problem::disk_full()],
        ),
    ]);
    let about = "The trace of this upload, as `traceparent` names it or newly begun: to be quoted when something was wrong.";
    let trace_id = MetaSchema { pattern: Some("^[0-9a-f]{32}$".to_owned()), ..MetaSchema::new("string") };
    for response in &mut responses {
        let trace_id = header(traced::TRACE_ID, about, trace_id.clone());
        // Who is turned away at the door has none.
        response.headers.push(MetaHeader { required: response.status != Some(429), ..trace_id });
    }
    let operation = operation("upload", TAG, "Classify an image", ABOUT, responses);
    path("/upload", Method::POST, MetaOperation { params, request: Some(images()), ..operation })
}

pub(super) fn result() -> MetaPath {
    const ABOUT: &str = "\
The result of an earlier upload, wherever it was uploaded: the id names the image by its content. Without `model` it is the \
result of the model for which the image was uploaded, of `default` first. Of several versions of a model the one in force \
counts, or else the newest result.

```
curl http://127.0.0.1:8000/results/$(sha256sum heart.jpg | cut -d ' ' -f 1)
```";
    let unknown = Problem::not_found(format!("no image {} was uploaded here", example().id));
    let mut responses = vec![
        answer(
            200,
            "The result.",
            vec![body::<Finished<'_>>("application/json", example_result(&example()))],
        ),
        pending(),
        refusal(
            "`bad request`: a parameter is broken.",
            &[Problem::bad_request("top: should be a number from 1 on, like `?top=3`")],
        ),
        refusal(
            "`not found`: no such image was uploaded (for this model), there is no such model, or no result of this version.",
            &[unknown],
        ),
        refusal(
            "`no longer queued`: the image waited for longer than the service keeps a job. A new upload tries again.",
            &[Problem::dropped(example().id)],
        ),
    ];
    responses.extend(no_label());
    responses.push(refusal("`storage unavailable`: the result could not be looked up.", &[storage()]));
    let about_wait = "How long to wait for a result that is not there yet: `30s`, `1m`, or seconds. Unless said, not at all.";
    let about_name =
        "What the answer calls the image. The `Location` of an upload has the name of that upload.";
    let params = vec![
        id(),
        query("wait", about_wait, wait()),
        model(),
        top(),
        version(),
        query("name", about_name, MetaSchema::new("string")),
    ];
    let operation = operation("result", TAG, "The result of an earlier upload", ABOUT, responses);
    let mut path = path("/results/{id}", Method::GET, MetaOperation { params, ..operation });
    path.operations.extend(erase().operations);
    path
}

/// The other method of the same address.
fn erase() -> MetaPath {
    const ABOUT: &str = "\
Takes an image away, and every result that it has, for good. A job for it that is under way ends as usual, and its result is taken \
away, too. Whoever uploads the image again has it classified again.

```
curl -X DELETE http://127.0.0.1:8000/results/$(sha256sum heart.jpg | cut -d ' ' -f 1)
```";
    let unknown = Problem::not_found(format!("no image {} was uploaded here", example().id));
    let responses = vec![
        answer(204, "They are gone.", Vec::new()),
        refusal("`not found`: no such image was uploaded.", &[unknown]),
        refusal("`storage unavailable`: not all of it could be taken away; try again.", &[storage()]),
    ];
    let operation = operation("erase", TAG, "Take an image and its results away", ABOUT, responses);
    path("/results/{id}", Method::DELETE, MetaOperation { params: vec![id()], ..operation })
}

fn id() -> MetaOperationParam {
    let schema = MetaSchema {
        pattern: Some("^[0-9a-fA-F]{64}$".to_owned()),
        example: Some(json!(example().id)),
        ..MetaSchema::new("string")
    };
    let id = query("id", "The image: the SHA-256 of its bytes.", schema);
    MetaOperationParam { in_type: MetaParamIn::Path, required: true, ..id }
}

fn wait() -> MetaSchema {
    MetaSchema {
        pattern: Some("^[0-9]{1,6}(ms|s|m|h)?$".to_owned()),
        example: Some(json!("60s")),
        ..MetaSchema::new("string")
    }
}

fn model() -> MetaOperationParam {
    let schema = MetaSchema {
        default: Some(json!(Model::DEFAULT)),
        pattern: Some("^[0-9A-Za-z-]{1,60}$".to_owned()),
        ..MetaSchema::new("string")
    };
    query("model", "The model that shall look at it.", schema)
}

fn version() -> MetaOperationParam {
    let schema = MetaSchema {
        pattern: Some("^[0-9a-z]{1,64}$".to_owned()),
        example: Some(json!(example().version)),
        ..MetaSchema::new("string")
    };
    query("version", "The version of the model whose result is wanted, as results show it.", schema)
}

fn top() -> MetaOperationParam {
    let schema = MetaSchema { minimum: Some(1.0), example: Some(json!(3)), ..MetaSchema::new("integer") };
    query("top", "The most guesses to show; without it, all that the model's settings keep.", schema)
}

/// The body of an upload: a form, or an image.
fn images() -> MetaRequest {
    let image = || MetaSchema::new_with_format("string", "binary");
    let several =
        MetaSchema { items: Some(Box::new(inline(image()))), min_items: Some(1), ..MetaSchema::new("array") };
    let usual = FIELDS[0];
    let fields = FIELDS.map(|field| {
        let about = if field == usual { "An image, or several." } else { "The same, by another name." };
        (field, inline(MetaSchema { description: Some(about), ..several.clone() }))
    });
    let one_of_them = |field| inline(MetaSchema { required: vec![field], ..MetaSchema::ANY });
    let form = MetaSchema {
        properties: fields.into(),
        any_of: FIELDS.map(one_of_them).into(),
        ..MetaSchema::new("object")
    };
    let bare = TYPES.into_iter().chain(["application/octet-stream"]);
    let content = std::iter::once(media("multipart/form-data", form))
        .chain(bare.map(|content_type| media(content_type, image())))
        .collect();
    MetaRequest { description: Some("One image, or a form with one or several."), content, required: true }
}

/// The answer to several images. A parser of lines makes an array of them.
fn lines() -> MetaMediaType {
    let reply = example();
    let cut_short = Problem::rejected(JobId::of(b"star.jpg"), "the JPEG ends early");
    let lines = [
        Line::Finished(example_result(&reply)),
        Line::Pending(Pending::new(JobId::of(b"ring.jpg"), Some("ring.jpg"), Model::DEFAULT, 5)),
        Line::Failed(Failed::new("star.jpg", &cut_short)),
    ];
    body::<Vec<Line<'_>>>("application/x-ndjson", lines)
}

fn pending() -> MetaResponse {
    let pending = Pending::new(example().id, Some("heart.jpg"), Model::DEFAULT, 5);
    let location = header("Location", "Where the result will be.", MetaSchema::new("string"));
    MetaResponse {
        headers: vec![location, retry_after()],
        ..answer(
            202,
            "It is stored and queued, and there is no label yet.",
            vec![body::<Pending<'_>>("application/json", pending)],
        )
    }
}

/// How a job ends that ends without a label.
fn no_label() -> [MetaResponse; 2] {
    let id = example().id;
    [
        refusal(
            "`image rejected`: it can never be classified, and the detail says why.",
            &[Problem::rejected(id, "the JPEG ends early")],
        ),
        refusal(
            "`classification failed`: it was tried often enough, and lies with the dead letters. A new upload tries again.",
            &[Problem::gave_up(id, "the classifier ended without an answer (tried 5 times)")],
        ),
    ]
}

pub(super) fn example() -> Reply {
    let guess = |label: &str, confidence| Guess { label: label.to_owned(), confidence };
    Reply {
        v: job::VERSION,
        id: JobId::of(b"heart.jpg"),
        name: "heart.jpg".to_owned(),
        model: Model::DEFAULT.to_owned(),
        version: "0f1e2d3c4b5a6978".to_owned(),
        outcome: Outcome::Classified { top: vec![guess("heart", 0.875), guess("star", 0.0625)] },
        worker: "default-1".to_owned(),
        at: DateTime::UNIX_EPOCH,
        queued_ms: 1.5,
        classify_ms: 8.25,
        trace: None,
    }
}

pub(super) fn example_result(reply: &Reply) -> Finished<'_> {
    finished(reply, &reply.name, false, 10.5, 2).expect("the example is classified")
}
