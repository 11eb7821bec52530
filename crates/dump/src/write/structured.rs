//! How is a VMCS written down in JSON and TOML?

use super::Text;
use vmx_model::{Field, Vmcs};

/// How fields are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// By softvirt's id.
    Names,
    /// By encoding.
    Encodings,
}

impl Keys {
    fn of(self, field: Field) -> String {
        match self {
            Self::Names => field.id().to_owned(),
            Self::Encodings => format!("\"0x{:04x}\"", field.encoding().0),
        }
    }
}

/// The known fields as a JSON object.
#[must_use]
pub fn json(vmcs: &Vmcs, keys: Keys) -> Text {
    let fields = Field::all().filter(|&field| vmcs.is_known(field)).collect();
    let mut text = Text { fields, ..Text::default() };
    text.line("{");
    text.line("  \"vmcs\": {");
    let last = text.fields.len();
    for (position, field) in text.fields.clone().into_iter().enumerate() {
        let key = keys.of(field);
        let comma = if position + 1 < last { "," } else { "" };
        text.line(format!("    \"{}\": \"0x{:x}\"{comma}", key.trim_matches('"'), vmcs.get(field)));
    }
    text.line("  }");
    text.line("}");
    text
}

/// The known fields as a TOML table.
#[must_use]
pub fn toml(vmcs: &Vmcs, keys: Keys) -> Text {
    let mut text = Text::default();
    text.line("[vmcs]");
    for field in Field::all() {
        let Some(value) = vmcs.try_get(field) else { continue };
        text.fields.push(field);
        // TOML's integers end at 63 bits.
        let quote = if value >> 63 == 1 { "\"" } else { "" };
        text.line(format!("{} = {quote}0x{value:x}{quote}", keys.of(field)));
    }
    text
}
