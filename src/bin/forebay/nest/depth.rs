//! How deeply nested a value of the upstream may be. Pure.
//!
//! It travels to other processes within messages, and what is nested too deeply is refused there:
//! one value would keep all others from being told.

use serde_json::Value;

/// How many arrays and objects may lie within each other: a thermostat's fields are the first.
pub(super) const DEPTH_MAX: usize = 32;

/// Leaves out whatever lies deeper in `value` than `depth_max`, and returns how many values that
/// were. An array keeps its length: null takes their place.
pub(super) fn prune(value: &mut Value, depth_max: usize) -> usize {
    if is_nested(value) && depth_max == 0 {
        *value = Value::Null;
        return 1;
    }
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        Value::Array(elements) => elements.iter_mut().map(|element| prune(element, depth_max - 1)).sum(),
        Value::Object(members) => {
            let before = members.len();
            members.retain(|_, member| depth_max > 1 || !is_nested(member));
            let left_out = before - members.len();
            left_out + members.values_mut().map(|member| prune(member, depth_max - 1)).sum::<usize>()
        }
    }
}

fn is_nested(value: &Value) -> bool {
    value.is_array() || value.is_object()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_too_deep_is_left_out() {
        let table = [
            (json!(1), 0, json!(1), 0),
            (json!({}), 0, json!(null), 1),
            (json!({"a": 1, "b": {}, "c": []}), 1, json!({"a": 1}), 2),
            (json!({"a": {"b": 1, "c": {"d": {}}}}), 2, json!({"a": {"b": 1}}), 1),
            (json!([1, [2], {"a": 3}]), 1, json!([1, null, null]), 2),
            (json!([[[1]], 2]), 2, json!([[null], 2]), 1),
            (json!([{"a": {"b": 1}}]), 3, json!([{"a": {"b": 1}}]), 0),
        ];
        for (value, depth_max, expected, left_out) in table {
            let mut pruned = value.clone();
            assert_eq!(prune(&mut pruned, depth_max), left_out, "{value}");
            assert_eq!(pruned, expected, "{value}");
        }
    }
}
