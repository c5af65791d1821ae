# Declarations of shared memory in CUDA sources, for the emulation: line for line, so that messages name the right line.
# several in one declaration: one after the other
:several
s/\b__shared__[[:space:]]+([A-Za-z_][A-Za-z0-9_: ]*[[:space:]])([A-Za-z_][A-Za-z0-9_]*[^],;(]*(\[[^];]*\])*)[[:space:]]*,[[:space:]]*([^;]*);/__shared__ \1\2; __shared__ \1\4;/
t several
s/\bextern[[:space:]]+__shared__[[:space:]]+(__align__\([0-9]+\)|alignas\([0-9]+\))?[[:space:]]*([^;]*[^A-Za-z0-9_;])([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*\[[[:space:]]*\]/\2* \3 = reinterpret_cast<\2*>(::emulate::dynamic_shared())/g
s/\b(static[[:space:]]+)?__shared__[[:space:]]+(__align__\([0-9]+\)|alignas\([0-9]+\))?[[:space:]]*([^;,=[]*[^A-Za-z0-9_;])([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*((\[[^];]*\])*)[[:space:]]*;/static ::emulate::Shared<\3 \5> emulated_\4; auto\& \4 = emulated_\4.here();/g
