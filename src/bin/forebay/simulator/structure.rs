//! One structure: a home, and whether somebody is in it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::thermostat::{Thermostat, token};

const NAMES: [&str; 4] = ["Home", "Cabin", "Office", "Beach House"];

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Away {
    Home,
    Away,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Structure {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) away: Away,
}

impl Structure {
    /// The structure with that number; the same number is always the same structure.
    pub(super) fn numbered(number: usize) -> Self {
        Self { id: token(3000 + number as u64, 54), name: NAMES[number % NAMES.len()].to_owned(), away: Away::Home }
    }

    /// With what hangs in it.
    pub(super) fn document(&self, thermostats: &[&Thermostat]) -> Value {
        let wheres: serde_json::Map<String, Value> = thermostats
            .iter()
            .map(|thermostat| {
                let place = json!({ "where_id": thermostat.place_id, "name": thermostat.place });
                (thermostat.place_id.clone(), place)
            })
            .collect();
        let ids: Vec<&String> = thermostats.iter().map(|thermostat| &thermostat.id).collect();
        json!({
            "structure_id": self.id,
            "name": self.name,
            "away": self.away,
            "country_code": "US",
            "postal_code": "94304",
            "time_zone": "America/Los_Angeles",
            "thermostats": ids,
            "wheres": wheres,
        })
    }
}
