//! How sections and choices are written down: each key, and each word it may have, once.

/// A section: each key with its meaning and range, its type and its default.
macro_rules! settings {
    ($(#[$doc:meta])* pub struct $name:ident {
        $($(#[$of_key:meta])* pub $key:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(default)]
        #[allow(missing_docs, reason = "a table is documented by its type")]
        pub struct $name {
            $($(#[$of_key])* pub $key: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($key: $default,)* }
            }
        }
    };
}

/// A key with a few words to choose from.
macro_rules! choices {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$of_word:meta])* $choice:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[allow(missing_docs, reason = "a choice is documented by its word, and by the key it is of")]
        pub enum $name {
            $($(#[$of_word])* #[serde(rename = $word)] $choice,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$choice),*];

            /// As in a config.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$choice => $word,)*
                }
            }
        }
    };
}
