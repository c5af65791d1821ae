//! What can be typed: types and help, no logic.
//!
//! | file | owns |
//! |---|---|
//! | `decode` | how a run's model translates: searching, drawing; and among which settings the best is looked for |

mod decode;

pub use decode::{DecodeArgs, SamplingArgs, TuneArgs, WeightsArgs};

use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

pub use super::common::CommonArgs;
pub use super::manual::{CompletionsArgs, ManArgs};
use crate::config::{self, LengthPenalty};
use crate::interop::{self, Dtype};
use crate::scores::Metric;

const TEMPLATE: &str =
    "{about}\n{before-help}{usage-heading} {usage}{after-help}\nCommands:\n{subcommands}\nOptions:\n{options}";

/// Without a heading: one screen has no line for it.
const EXAMPLES: &str = "\
\x20 nmt-train --config configs/quickstart.toml              train
  nmt-train --resume runs/quickstart                      go on where it stopped
  nmt-train translate runs/quickstart <in.txt >out.txt    translate";

const LONG_ABOUT: &str = "\
Trains neural machine translation on parallel text

Without a command, nmt-train trains: it reads the config, prepares data and vocabulary, trains, validates, and scores \
the test set. All it makes is in one run folder (runs/NAME for NAME.toml): the resolved config, metrics.jsonl, \
TensorBoard events, checkpoints, translations. A run that was stopped by Ctrl-C, a signal, max_hours or a crash goes on \
with --resume and ends as if it had never stopped.";

/// Before the usage of the long help, which has room for it.
const STREAMS: &str = "Results go to stdout, everything else to stderr.";

const LONG_EXAMPLES: &str = "\
Examples:
  nmt-train --config configs/quickstart.toml              train
  nmt-train --config c.toml --set optimizer.name=adamw --set seed=2 --set run_dir=runs/adamw-2
  nmt-train check --config c.toml                         look before training
  nmt-train --resume runs/quickstart                      go on where it stopped
  nmt-train --resume runs/quickstart --set train.max_updates=3000
  nmt-train translate runs/quickstart <in.txt >out.txt    translate
  nmt-train evaluate runs/quickstart --source s.en --reference r.de
  nmt-train completions bash; nmt-train man               for a shell; the manual page

Exit codes:
   0  done
   1  a fault of the program or the machine: disk full, unreadable checkpoint, a bug
   2  the command line is wrong
   3  the config, the data or the tokenizer is wrong; nothing was started
   4  training diverged and was stopped; the last good checkpoint is kept
  75  training was stopped by a signal or max_hours, after saving; the printed command goes on
Ctrl-C ends every other command but sweep at once, as it ends any program (130 in a shell): there is nothing to save.";

const SWEEP: &str = "\
Train all runs of a file, several at once

A second call goes on where the first one stopped: finished runs are skipped, interrupted ones resumed. Ctrl-C, SIGTERM \
and SIGUSR1 make the runs save and stop; another one, two seconds later or more, ends them at once. Mistakes in the file \
and in its configs are told before anything starts; a run that fails does not end the others. --threads N are those of \
each run [default: cores divided by --jobs]; --device is that of each run too.

A line of the file is the arguments of one run or, with {a,b} and {1..3}, of several:

  all: --config configs/quickstart.toml --set train.max_updates=1000
  --set optimizer.name=adam --set optimizer.lr={2e-3,4e-3} --set seed={1..3}     # six runs

What stands after `all:` is given to the lines below it, up to the next `all:`. Of a shell's ways only these hold: \
quotes, \\, comments, braces.

A run's folder is named by its line (name=adam,lr=2e-3,seed=1; the config first, where there are several) and holds, \
beside what training writes, final.json, sweep.log (stderr), sweep.line and sweep.status (done, diverged, interrupted, \
failed CODE). Each run is a process: of this program, or of $NMT_TRAIN. scripts/slurm-array.sh makes a Slurm array.

Exit codes: 0 all done, 1 some failed, 2 wrong arguments, 3 wrong file or run folders and nothing was started, \
75 interrupted.";

/// Trains neural machine translation on parallel text
#[derive(Clone, Debug, Parser)]
#[command(
    name = "nmt-train",
    version,
    long_about = LONG_ABOUT,
    before_long_help = STREAMS,
    help_template = TEMPLATE,
    after_help = EXAMPLES,
    after_long_help = LONG_EXAMPLES,
    override_usage = "nmt-train --config FILE [OPTIONS]  |  nmt-train COMMAND",
    max_term_width = 100,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    disable_version_flag = true,
    group(ArgGroup::new("what to train").args(["config", "resume"]).multiple(true).required(true)),
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub train: TrainArgs,
    #[command(flatten)]
    pub common: CommonArgs,
    /// Print version
    #[arg(short = 'V', long, action = ArgAction::Version, hide_short_help = true)]
    version: Option<bool>,
}

/// Training, the command without a name.
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// Config of the run
    ///
    /// A TOML file; `nmt-train init` prints one with every key. With --resume: the config to go on with, instead of
    /// the run folder's.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on with a run
    ///
    /// Everything needed is in the run folder. Changed keys (--set, --config) are listed; those that would change the
    /// model or the order of the data are refused.
    #[arg(short, long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// Override a key of the config; repeatable
    ///
    /// The value is TOML, or text without quotes: --set optimizer.name=adamw --set train.batch_size=2048
    #[arg(short, long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Replace an existing run folder
    ///
    /// Without it an existing run folder is an error.
    #[arg(short, long, hide_short_help = true)]
    pub force: bool,
    /// Write the last screen as JSON to a file, or to stdout with "-"
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub final_json: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Look before training: data, tokenizer, model, largest batch
    ///
    /// Does everything up to the first update, the largest batch once included, prints the table and writes no run
    /// folder.
    Check(CheckArgs),
    /// Print a config with every key, default and range
    Init(InitArgs),
    /// Train the tokenizer of a config and nothing else
    Tokenizer(TokenizerArgs),
    /// Translate lines from stdin or a file to stdout or a file
    ///
    /// One line in, one line out, in order; blank lines give empty ones. On a terminal it prompts, and Ctrl-C or Ctrl-D
    /// ends it. Through a pipe it answers as soon as no more lines are waiting. Several runs translate together as an
    /// ensemble; they must share the vocabulary.
    ///
    /// The score of --n-best, --scores and --format json is log P(translation | source), the sum over its tokens with
    /// `</s>`, divided by the length penalty: by length^A (decode.length_penalty_type = "length": with A = 1 it is the mean
    /// a token) or by ((5 + length) / 6)^A ("gnmt"). With --length-penalty 0 it is the sum itself. `score` prints the same
    /// numbers, given the same A. An empty translation of a blank line scores 0. --n-best does not change the best
    /// translation, unless it needs a larger beam.
    ///
    /// --format json prints one object a line of text: {"source", "source_pieces", "translations": [{"text", "score",
    /// "log_probability", "pieces", "alignment"}, ...]}, best first, one translation unless --n-best says more. Pieces are
    /// those of the vocabulary, `</s>` included, which a translation that was cut at its longest lacks; log_probability is
    /// the sum over them, before the length penalty. alignment, with --alignment, is a list of [source piece, target
    /// piece], both counted from 0: for each target piece the source piece with the most attention in the last layer, mean
    /// over its heads, in the first model of an ensemble. A score that is not finite is null.
    ///
    /// --sampling draws translations instead of searching for the best one: to translate text back for training, or for several
    /// different translations. It draws from all tokens (ancestral sampling) unless --top-k, --top-p or --temperature say
    /// otherwise, of which the temperature comes first. The score is log P(translation | source) of the model itself,
    /// whatever was cut off. On a CPU a sample is a function of --seed, line and number alone: neither threads nor batches
    /// nor the lines around it show in it.
    ///
    /// --output FILE appears when it is whole. Until then its lines are in FILE.partial/; a job that was interrupted goes on
    /// with the same command, if input, model and options are what they were.
    Translate(TranslateArgs),
    /// BLEU, chrF and TER of a run or of a file, as sacreBLEU prints them
    ///
    /// Files may be pipes; one of them may be "-", stdin. Several references a line: give --reference several times. As
    /// in sacreBLEU, an empty line of a further reference is a reference without words.
    Evaluate(EvaluateArgs),
    /// Choose beam and length penalty on the validation text
    ///
    /// Translates the run's validation text (or --source) with every beam and length penalty of two lists, prints the
    /// scores of each setting, and names the best with the options to type. BLEU's length is that of the translations over
    /// that of the references; its brevity penalty (BP) is below 1 where they are too short. Penalties cost next to nothing:
    /// hypotheses compete at one length, so that one search a beam gives exactly what each penalty would find alone; the
    /// seconds are those of that search. Never tune on test text: its score would no longer say what the model does with
    /// text that nobody has seen. Differences of a tenth or two are chance; of settings that near take the smallest beam.
    ///
    /// --write keeps the best in the config of the run, as decode.beam_size, decode.length_penalty and
    /// decode.length_penalty_type: translate and evaluate use it from then on. A run that is resumed scores its validations
    /// with the new penalty, and judges by these alone.
    Tune(TuneArgs),
    /// Scores of given translations
    ///
    /// Prints one number a line: log P(target | source), a natural logarithm, the sum over the tokens of the target with
    /// `</s>`. It is divided by nothing, unless --length-penalty says so: then it is the score that `translate` prints of
    /// the same translation with the same penalty. A blank target is `</s>` alone. For a blank source, which is translated
    /// to nothing without asking the model, it is 0 with a blank target, else -inf. For rescoring.
    Score(ScoreArgs),
    /// Average the weights of the last checkpoints
    Average(AverageArgs),
    /// Write the model as a folder that Hugging Face or CTranslate2 loads
    ///
    /// huggingface: config, weights, tokenizer and a model card, for `AutoTokenizer`, `AutoModelForSeq2SeqLM` and the
    /// Hub. ctranslate2: what CTranslate2's own converter would make, for `ctranslate2.Translator`, quantized by --dtype.
    /// What a format can not hold is an error that names the one that can: pre-norm models and separate vocabularies go to
    /// CTranslate2, RNNs nowhere. The folder appears when all of it is written.
    Export(ExportArgs),
    /// Make a run folder of a Marian model of Hugging Face
    ///
    /// Takes a folder as those of Helsinki-NLP/opus-mt-* (config.json; model.safetensors or pytorch_model.bin; source.spm,
    /// target.spm and vocab.json, or tokenizer.json), by its path or from the Hub as hf://OWNER/NAME[@REVISION]. The run
    /// folder then serves translate, evaluate, score and export. To train the model on, name either folder in
    /// model.init_from of a config.
    Import(ImportArgs),
    /// Train all runs of a file, several at once; goes on where it stopped
    #[command(long_about = SWEEP)]
    Sweep(SweepArgs),
    /// Compare runs: table, time to target, an HTML page
    ///
    /// Takes run folders and folders of runs (a sweep). Only runs of the same data, vocabulary, model and batch are
    /// compared, by their score at the end of their own schedule. Prints a table; writes report.html into the folder if
    /// one was given.
    Report(ReportArgs),
    /// Print completions of the command line for a shell
    // one screen has no line for it; the long help names it
    #[command(hide = true)]
    Completions(CompletionsArgs),
    /// Print the manual page
    #[command(hide = true)]
    Man(ManArgs),
}

#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Config of the run
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Override a key of the config; repeatable
    #[arg(short, long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// A config for a purpose instead: quickstart, transformer-base, ...; an unknown name lists all
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct TokenizerArgs {
    /// Config of the run
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Override a key of the config; repeatable
    #[arg(short, long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Folder for the tokenizer's files [default: the run folder]
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What `translate` writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct TranslateArgs {
    /// Run folders; several make an ensemble
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    #[command(flatten)]
    pub decode: DecodeArgs,
    /// Text to translate, plain or .gz; "-" = stdin [default: stdin]
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// File for the translations; an interrupted job goes on there; "-" = stdout [default: stdout]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace an existing --output, once the job is done
    #[arg(long, requires = "output")]
    pub force: bool,
    /// Print lines of text, or one JSON object a line
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// Print the N best of each line as "line ||| translation ||| score", lines counted from 0
    ///
    /// Of --format json: N translations in each object. The beam is N at least. Translations that were cut at their longest
    /// stand last, whatever their score.
    #[arg(long, value_name = "N")]
    pub n_best: Option<usize>,
    /// With --sampling: draw N translations of each line, printed as those of --n-best, in the order in which they were drawn
    #[arg(long, value_name = "N", conflicts_with = "n_best")]
    pub samples: Option<usize>,
    /// Print the score (log-probability, divided by the length penalty) and a tab before each translation
    #[arg(long, conflicts_with_all = ["n_best", "samples"])]
    pub scores: bool,
    /// With --format json: which source piece each piece of a translation was read from
    #[arg(long)]
    pub alignment: bool,
}

#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("what").args(["runs", "hypothesis"]).required(true)))]
pub struct EvaluateArgs {
    /// Run folders whose model translates --source; several make an ensemble
    #[arg(value_name = "RUN", requires = "source")]
    pub runs: Vec<PathBuf>,
    /// Text to translate; "-" = stdin
    #[arg(long, value_name = "FILE", conflicts_with = "hypothesis")]
    pub source: Option<PathBuf>,
    /// Translations made elsewhere, to be scored without a run; "-" = stdin
    #[arg(long, value_name = "FILE")]
    pub hypothesis: Option<PathBuf>,
    /// Translations made by people; several times for several references a line
    #[arg(long, value_name = "FILE", required = true)]
    pub reference: Vec<PathBuf>,
    /// What is measured
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', default_value = "bleu,chrf",
          value_parser = one_of(Metric::of_text()))]
    pub metrics: Vec<Metric>,
    /// Words of BLEU: 13a, zh, intl, char, none, flores200[:FILE], flores101[:FILE] or spm[:FILE] [default:
    /// validation.tokenize of the run]
    ///
    /// flores200, flores101 and spm (flores101's old name) take the pieces of the SentencePiece model that sacreBLEU has
    /// fetched, or of a copy of it in FILE; spm:FILE those of any model. FILE may be hf://OWNER/NAME/FILE. Where neither
    /// this nor the run says it, the target language does: zh for "zh", char for "ja" and "ko", else 13a.
    #[arg(long, value_name = "NAME", value_parser = bleu_tokenizer)]
    pub tokenize: Option<String>,
    /// Ignore case
    #[arg(long)]
    pub lowercase: bool,
    #[command(flatten)]
    pub decode: DecodeArgs,
}

/// Reads the name of one of some metrics.
fn one_of(metrics: impl Iterator<Item = Metric>) -> impl TypedValueParser<Value = Metric> {
    PossibleValuesParser::new(metrics.map(Metric::name)).try_map(|name| name.parse::<Metric>())
}

fn bleu_tokenizer(name: &str) -> Result<String, String> {
    match config::is_bleu_tokenizer(name) {
        true => Ok(name.to_string()),
        false => Err(format!("known are {}", config::bleu_tokenizers())),
    }
}

#[derive(Clone, Debug, Args)]
pub struct ScoreArgs {
    /// Run folder
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Source text; "-" = stdin
    #[arg(long, value_name = "FILE")]
    pub source: PathBuf,
    /// Its translations, line by line; "-" = stdin
    #[arg(long, value_name = "FILE")]
    pub target: PathBuf,
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Exponent of the length penalty; 0 = off, whatever the run's is
    #[arg(long, value_name = "A", allow_negative_numbers = true, default_value = "0")]
    pub length_penalty: f64,
    /// Formula of the length penalty, length or gnmt [default: decode.length_penalty_type]
    #[arg(long, value_name = "NAME", value_parser = decode::length_penalty_type())]
    pub length_penalty_type: Option<LengthPenalty>,
    /// Target tokens scored together; a longer line goes alone [default: decode.batch_size]
    #[arg(long = "max-batch-tokens", alias = "batch-size", value_name = "N")]
    pub batch_size: Option<usize>,
}

#[derive(Clone, Debug, Args)]
pub struct AverageArgs {
    /// Run folder
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// How many of the newest checkpoints
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub last: u64,
    /// File to write [default: average.safetensors in the run folder, for --checkpoint average]
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// Run folder
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// What is to load the model
    #[arg(long, value_name = "FORMAT")]
    pub format: interop::Format,
    /// Folder to make; one that is there must be empty
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Which weights: best, latest, average, or the number of an update
    #[arg(long, value_name = "WHICH", default_value = "best")]
    pub checkpoint: String,
    /// How weights are stored
    #[arg(long, value_name = "TYPE", default_value = "float32")]
    pub dtype: Dtype,
}

#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// Folder of the model, or hf://OWNER/NAME[@REVISION]
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Run folder to make
    #[arg(short, long, value_name = "RUN")]
    pub out: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct SweepArgs {
    /// File of runs
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Runs at once
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub jobs: usize,
    /// Folder of the run folders [default: runs/sweep-NAME for NAME.txt]
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Try failed runs again; those that diverged have a result and are not tried again
    #[arg(long)]
    pub retry: bool,
    /// Print the commands that would be run
    #[arg(long)]
    pub dry_run: bool,
    /// Only run number I, from 1, of all that the lines expand to
    #[arg(long, alias = "line", value_name = "I", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub index: Option<usize>,
    /// Print the number of runs
    #[arg(long)]
    pub count: bool,
}

#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Run folders, or folders of runs
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Optimizers or methods, the best of which others are compared with [default: adam,adamw,clipped-adam]
    #[arg(short, long, value_name = "NAMES", value_delimiter = ',')]
    pub baseline: Vec<String>,
    /// Score to reach [default: the baseline's at its best horizon]
    #[arg(short, long, value_name = "SCORE", allow_negative_numbers = true)]
    pub target: Option<f64>,
    /// Score of the validation set that runs are judged by
    #[arg(short, long, value_name = "NAME", default_value = "nll", value_parser = one_of(Metric::ALL.iter().copied()))]
    pub score: Metric,
    /// Write one row a run; "-" = stdout
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write everything, for programs; "-" = stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the page here instead
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitCode;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_types_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn short_help_fits_one_screen_with_three_examples() {
        let help = Cli::command().term_width(80).render_help().to_string();
        assert!(help.lines().count() <= 24, "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        assert_eq!(help.lines().filter(|line| line.starts_with("  nmt-train ")).count(), 3, "{help}");
    }

    #[test]
    fn long_help_documents_exit_codes_and_every_option() {
        let help = Cli::command().term_width(100).render_long_help().to_string();
        for code in [ExitCode::Success, ExitCode::Failure, ExitCode::Usage, ExitCode::Input, ExitCode::Diverged] {
            assert!(help.contains(&format!("\n   {}  ", code as u8)), "{help}");
        }
        assert!(help.contains(&format!("\n  {}  ", ExitCode::Interrupted as u8)), "{help}");
        for option in ["--config", "--resume", "--set", "--force", "--final-json", "--device", "--threads", "--quiet"] {
            assert!(help.contains(option), "{option}: {help}");
        }
    }

    #[test]
    fn training_needs_a_config_or_a_run() {
        let cli = parse("nmt-train -c c.toml --set seed=2 --set a.b=c --final-json -").expect("a training command");
        assert_eq!(cli.train.set, ["seed=2", "a.b=c"]);
        assert_eq!(cli.train.final_json, Some("-".into()));
        assert!(parse("nmt-train --resume runs/a --set train.max_updates=9").is_ok());
        assert!(parse("nmt-train --set seed=2").expect_err("nothing to train").contains("--config"));
    }

    #[test]
    fn commands_take_what_the_design_says() {
        for line in [
            "nmt-train check --config c.toml --set seed=3 --device cpu",
            "nmt-train init --preset transformer-base",
            "nmt-train tokenizer --config c.toml",
            "nmt-train translate a b --beam 5 --n-best 3 --length-penalty 0.6 --batch-size 100 --threads 2",
            "nmt-train translate a --input - --output o --force --format json --alignment --max-batch-tokens 9",
            "nmt-train evaluate a --source s --reference r --metrics bleu,chrf,chrf++,ter --tokenize 13a --lowercase",
            "nmt-train evaluate --hypothesis h --reference r --reference r2 --tokenize spm:m.model",
            "nmt-train evaluate --source s --reference r a --precision f32",
            "nmt-train translate a --sampling --top-k 10 --top-p 0.9 --temperature 0.8 --samples 4 --seed 7",
            "nmt-train translate a --sampling=false --beam 5",
            "nmt-train evaluate a --source s --reference r --sampling",
            "nmt-train tune a b --beam 1,5 --length-penalty 0,0.5,1.5 --length-penalty-type length,gnmt --metric chrf",
            "nmt-train tune a --source s --reference r --reference r2 --checkpoint latest --write --json -",
            "nmt-train score a --source s --target t --length-penalty 1 --precision bf16",
            "nmt-train average a --last 5 --out m.safetensors",
            "nmt-train export a --format huggingface --out d --checkpoint average --dtype bfloat16",
            "nmt-train export a --format ctranslate2 --out d --dtype int8",
            "nmt-train sweep f.txt --jobs 2 --threads 2 --out d --retry --dry-run --index 3 --count --device cpu",
            "nmt-train report runs/sweep a --baseline adam,adamw --target 2.5 --score nll --csv - --json j --html h",
        ] {
            if let Err(e) = parse(line) {
                panic!("{line}: {e}");
            }
        }
        for line in [
            "nmt-train evaluate --reference r",
            "nmt-train evaluate a --reference r",
            "nmt-train evaluate a --source s --hypothesis h --reference r",
            "nmt-train evaluate --hypothesis h --reference r --tokenize mecab",
            "nmt-train evaluate --hypothesis h",
            "nmt-train translate",
            "nmt-train translate a --n-best -1",
            "nmt-train translate a --n-best 2 --scores",
            "nmt-train translate a --n-best 2 --samples 2",
            "nmt-train translate a --samples 2 --scores",
            "nmt-train translate a --force",
            "nmt-train translate a --format xml",
            "nmt-train translate a --beam 1.5",
            "nmt-train translate a --precision f16",
            "nmt-train translate a --threads -2",
            "nmt-train translate a --length-penalty x",
            "nmt-train tune",
            "nmt-train tune a --source s",
            "nmt-train tune a --reference r",
            "nmt-train tune a --metric nll",
            "nmt-train tune a --beam 4,x",
            "nmt-train average a --last -3",
            "nmt-train average a --last 0",
            "nmt-train export a --out d",
            "nmt-train export a --format huggingface",
            "nmt-train export a --format onnx --out d",
            "nmt-train export a --format ctranslate2 --out d --dtype int4",
            "nmt-train report",
            "nmt-train sweep",
            "nmt-train sweep a b",
            "nmt-train sweep a --index 0",
            "nmt-train sweep a --jobs 0",
            "nmt-train --config c check --config d",
        ] {
            assert!(parse(line).is_err(), "{line} is accepted");
        }
    }
}
