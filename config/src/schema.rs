//! The JSON Schema of configuration documents, from the field tables.

use serde_json::{Map, Value as Json, json};

use crate::kind::Kind;
use crate::resource::{Field, Resource};
use crate::spec::{
    BgpDynamicPeer, BgpPeer, BgpRouter, EventGroup, SamEnrollmentClient, SamEnrollmentPolicy,
    WireGuardInterface,
};

/// One sentence about a Kind and the table of its keys.
pub fn fields(kind: Kind) -> (String, Vec<Field>) {
    fn of<T: Resource>() -> (String, Vec<Field>) {
        (T::doc(), T::fields())
    }
    match kind {
        Kind::BgpRouter => of::<BgpRouter>(),
        Kind::BgpDynamicPeer => of::<BgpDynamicPeer>(),
        Kind::BgpPeer => of::<BgpPeer>(),
        Kind::WireGuardInterface => of::<WireGuardInterface>(),
        Kind::SamEnrollmentPolicy => of::<SamEnrollmentPolicy>(),
        Kind::SamEnrollmentClient => of::<SamEnrollmentClient>(),
        Kind::EventGroup => of::<EventGroup>(),
    }
}

/// The JSON Schema (2020-12) of one document; editors check each document of a file against it.
pub fn schema() -> Json {
    let definitions: Map<String, Json> =
        Kind::ALL.into_iter().map(|kind| (kind.as_str().to_string(), resource(kind))).collect();
    let choices: Vec<Json> =
        Kind::ALL.iter().map(|kind| json!({ "$ref": format!("#/$defs/{kind}") })).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A resource of the fabric's configuration",
        "oneOf": choices,
        "$defs": definitions,
    })
}

fn resource(kind: Kind) -> Json {
    let (doc, fields) = fields(kind);
    let properties: Map<String, Json> =
        fields.iter().map(|field| (field.name.to_string(), property(field))).collect();
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut top = vec!["apiVersion", "kind", "metadata"];
    if !required.is_empty() {
        top.push("spec");
    }
    let name = json!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" });
    json!({
        "description": doc,
        "type": "object",
        "additionalProperties": false,
        "required": top,
        "properties": {
            "apiVersion": { "const": kind.api_version() },
            "kind": { "const": kind.as_str() },
            "metadata": {
                "type": "object", "additionalProperties": false, "required": ["name"],
                "properties": { "name": name },
            },
            "spec": {
                "type": "object", "additionalProperties": false, "required": required, "properties": properties,
            },
        },
    })
}

fn property(field: &Field) -> Json {
    let mut schema = field.schema.clone();
    if let Json::Object(map) = &mut schema {
        map.insert("description".into(), json!(format!("{} Must be {}.", field.doc, field.accepts)));
    }
    schema
}
