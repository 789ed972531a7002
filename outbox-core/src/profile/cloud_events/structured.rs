use std::{borrow::Cow, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    CloudEvents, PREFIX,
    attributes::{Received, Value},
};
use crate::{
    event::{ContentType, ReceivedEvent, RecordedEvent},
    profile::{CodecError, CodecErrorKind, Encoded, facts, header::Name, header_list::HeaderList, json, text},
};

/// The media type of one event in the JSON format.
const MEDIA_TYPE: &str = "application/cloudevents+json";

pub(super) fn encode(encoder: &CloudEvents, recorded: &RecordedEvent) -> Result<Encoded, CodecError> {
    let event = &recorded.event;
    let data = event.payload.as_deref().map(|bytes| {
        if event.content_type.is_json() {
            json::whole(bytes).map(|json| ("data", Cow::Borrowed(json)))
        } else {
            Ok(("data_base64", Cow::Owned(format!("\"{}\"", STANDARD.encode(bytes)))))
        }
    });
    let data = data.transpose()?;
    let mut headers = HeaderList::with_room(1, &event.headers);
    headers.fixed(Name::ContentType, MEDIA_TYPE);
    let body = body(encoder, recorded, data);
    Ok(Encoded { payload: Some(body), headers: headers.finish(&event.headers) })
}

fn body(encoder: &CloudEvents, recorded: &RecordedEvent, data: Option<(&str, Cow<'_, str>)>) -> Bytes {
    let room = encoder.attribute_bytes(&recorded.event) + data.as_ref().map_or(0, |(_, data)| data.len());
    let mut out = Vec::with_capacity(room);
    let mut separator = b'{';
    encoder.attributes(recorded, |name, value| {
        out.push(separator);
        separator = b',';
        out.push(b'"');
        out.extend_from_slice(member(name).as_bytes());
        out.extend_from_slice(b"\":");
        match (name, value) {
            // The only attribute that is no string.
            (Name::CeUnordered, _) => value.write(&mut out),
            (_, Value::Text(text)) => text::json_string(&mut out, text),
            _ => {
                out.push(b'"');
                value.write(&mut out);
                out.push(b'"');
            }
        }
    });
    if let Some((member, data)) = data {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(member.as_bytes());
        out.extend_from_slice(b"\":");
        out.extend_from_slice(data.as_bytes());
    }
    out.push(b'}');
    out.into()
}

/// What an attribute is called in the JSON format.
fn member(attribute: Name) -> &'static str {
    match attribute {
        Name::ContentType => "datacontenttype",
        other => other.text().strip_prefix(PREFIX).unwrap_or(other.text()),
    }
}

/// Whether a media type is of CloudEvents, in whichever format.
pub(super) fn is_any(media_type: &str) -> bool {
    let prefix = b"application/cloudevents";
    media_type.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    datacontenttype: Option<Cow<'a, str>>,
    #[serde(borrow)]
    aggregatetype: Option<Cow<'a, str>>,
    #[serde(borrow)]
    orderingkey: Option<Cow<'a, str>>,
    #[serde(borrow)]
    logid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sequence: Option<Cow<'a, str>>,
    unordered: Option<bool>,
    #[serde(borrow)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "json::present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<Cow<'a, str>>,
}

pub(super) fn decode(
    media_type: &str,
    payload: Option<&Bytes>,
    headers: &[(Arc<str>, Bytes)],
) -> Result<ReceivedEvent, CodecError> {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case(MEDIA_TYPE) {
        return Err(malformed(format!("the body is {media_type}; expected {MEDIA_TYPE}")));
    }
    let bytes = payload.ok_or_else(|| malformed("the message has no body; expected a CloudEvent".to_owned()))?;
    let body: Body<'_> = serde_json::from_slice(bytes)
        .map_err(|e| malformed(format!("the body is no CloudEvent in JSON ({e})")).with_source(e))?;
    let content_type = match body.datacontenttype {
        Some(text) => facts::parse("datacontenttype", &text)?,
        None => ContentType::json(),
    };
    let payload = data(bytes, body.data, body.data_base64.as_deref(), &content_type)?;
    let received = Received {
        specversion: body.specversion,
        id: body.id,
        event_type: body.event_type,
        subject: body.subject,
        time: body.time,
        aggregate_type: body.aggregatetype,
        ordering_key: body.orderingkey,
        log: body.logid,
        sequence: body.sequence,
        unordered: body.unordered == Some(true),
        trace_parent: body.traceparent,
    };
    received.event(content_type, payload, headers)
}

fn data(
    body: &Bytes,
    data: Option<&RawValue>,
    base64: Option<&str>,
    content_type: &ContentType,
) -> Result<Option<Bytes>, CodecError> {
    match (data, base64) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(malformed("the CloudEvent has data and data_base64".to_owned())),
        (None, Some(base64)) => {
            let bytes =
                STANDARD.decode(base64).map_err(|e| malformed("data_base64 is no Base64".to_owned()).with_source(e))?;
            if content_type.is_json() {
                json::whole(&bytes)?;
            }
            Ok(Some(bytes.into()))
        }
        (Some(data), None) if content_type.is_json() => Ok(Some(body.slice_ref(data.get().as_bytes()))),
        // Of other types other producers write the text, as a string.
        (Some(data), None) => match serde_json::from_str::<String>(data.get()) {
            Ok(text) => Ok(Some(text.into())),
            Err(e) => Err(malformed(format!("data of type {content_type} is no string")).with_source(e)),
        },
    }
}

fn malformed(message: String) -> CodecError {
    CodecError::new(CodecErrorKind::Malformed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTRIBUTES: &str = r#""specversion":"1.0","id":"6f9619ff-8b86-4d01-b42d-00cf4fc964ff","source":"/a","type":"T",
        "subject":"7","aggregatetype":"Tutor","time":"2025-12-25T11:00:00+01:00","dataschema":null,"more":1"#;

    fn read(media_type: &str, rest: &str) -> Result<ReceivedEvent, CodecError> {
        let body = Bytes::from(format!("{{{ATTRIBUTES}{rest}}}"));
        decode(media_type, Some(&body), &[])
    }

    #[test]
    fn events_of_other_producers_are_read() {
        let json = "application/json";
        for (rest, content_type, payload) in [
            ("", json, None),
            (r#","data":null"#, json, Some(&b"null"[..])),
            (r#","data": {"id": 7} "#, json, Some(br#"{"id": 7}"#)),
            (r#","datacontenttype":null,"data":"text""#, json, Some(br#""text""#)),
            (r#","datacontenttype":"text/plain","data":"a\u0041""#, "text/plain", Some(b"aA")),
            (r#","datacontenttype":"application/x","data_base64":"AP8=""#, "application/x", Some(b"\0\xff")),
            (r#","datacontenttype":"a/b+json","data_base64":"MQ==""#, "a/b+json", Some(b"1")),
        ] {
            let received = read("Application/CloudEvents+json; charset=UTF-8", rest).expect(rest);
            assert_eq!(received.event.content_type.as_str(), content_type, "{rest}");
            assert_eq!(received.event.payload.as_deref(), payload, "{rest}");
            assert_eq!(
                received.event.created_at,
                "2025-12-25T10:00:00Z".parse::<chrono::DateTime<chrono::Utc>>().expect("time")
            );
            assert_eq!(received.origin, None);
        }
    }

    #[test]
    fn other_bytes_are_an_error() {
        for rest in [
            r#","data":1,"data_base64":"MQ==""#,
            r#","data_base64":"?""#,
            r#","data_base64":"Og==""#,
            r#","datacontenttype":"text/plain","data":{}"#,
            r#","unordered":"true""#,
            "}",
        ] {
            assert_eq!(read(MEDIA_TYPE, rest).expect_err(rest).kind(), CodecErrorKind::Malformed, "{rest}");
        }
        for rest in [r#","sequence":"1""#, r#","datacontenttype":"""#] {
            assert_eq!(read(MEDIA_TYPE, rest).expect_err(rest).kind(), CodecErrorKind::Field, "{rest}");
        }
        for media_type in ["application/cloudevents-batch+json", "application/cloudevents+avro"] {
            assert_eq!(read(media_type, "").expect_err("format").kind(), CodecErrorKind::Malformed);
        }
        assert_eq!(decode(MEDIA_TYPE, None, &[]).expect_err("no body").kind(), CodecErrorKind::Malformed);
    }
}
