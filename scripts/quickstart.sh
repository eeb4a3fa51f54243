#!/usr/bin/env bash
# The main job, from a bare machine: sets up, builds, draws the scenes, trains a vision-language model in three
# stages, judges it on pictures it has never seen, and asks it three questions. About 15 minutes on two cores.
#
#   scripts/quickstart.sh               everything
#   scripts/quickstart.sh --fresh       the same, throwing away an earlier run
#   scripts/quickstart.sh --gpu         on a GPU, a model of ten times the parameters (configs/gpu), into runs/scenes-large
#
# A run that was stopped goes on where it was. Results: runs/quickstart/summary.json and the report.html of each stage.
# With PERCEPT_BIN set to a folder of built programs nothing is installed or built.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=build/bin scenes=build/scenes runs=runs/quickstart preset=release recipes=configs/quickstart/ fresh=
for argument; do
    case $argument in
    --fresh) fresh=yes ;;
    --gpu)
        bin=build/cuda/bin runs=runs/scenes-large preset=cuda recipes=configs/gpu/scenes-large-
        export PERCEPT_DEVICE=cuda
        ;;
    *)
        echo "quickstart.sh: unknown argument '$argument'; there are --fresh and --gpu" >&2
        exit 2
        ;;
    esac
done
bin=${PERCEPT_BIN:-$bin}
[ -z "$fresh" ] || rm -rf "$runs"

seconds_of=()
run() { # NAME COMMAND...: says what it runs, and keeps how long it took
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@"
    seconds_of+=("$name" $((SECONDS - start)))
}

build() {
    cmake --preset $preset >build/configure.log && cmake --build --preset $preset --target percept percept-data percept-train
}

train() { # STAGE: starts it, or goes on with what is there; a finished one is left as it is
    local resume=()
    [ ! -e "$runs/$1/checkpoints/last.h5" ] || resume=(--resume)
    [ ${#resume[@]} -gt 0 ] || rm -rf "${runs:?}/$1"
    "$bin/percept-train" "$recipes$1.yaml" "${resume[@]}"
}

judge() { # everything on pictures that no stage has seen
    "$bin/percept" eval "$runs/pretrain/checkpoints/best.h5" "retrieval=$scenes/captions-test.jsonl" \
        --captions 1 --json >"$runs/retrieval.json"
    "$bin/percept" eval "$model" "vqa=$scenes/qa-test.jsonl" "vqa=$scenes/qa-unseen.jsonl" \
        "pope=$scenes/pope-random.jsonl" "pope=$scenes/pope-popular.jsonl" "pope=$scenes/pope-adversarial.jsonl" \
        --report "$runs/report.html" --json >"$runs/eval.json"
}

summarise() { # one page of figures; blind is the best of three ways of not looking
    jq -n --slurpfile eval "$runs/eval.json" --slurpfile retrieval "$runs/retrieval.json" --args '
        def blind: [.blind, .blind_grey, .commonest] | max;
        $eval[0].results as $r | $retrieval[0].results[0] as $t
        | {vqa_accuracy: $r[0].accuracy, vqa_blind: ($r[0] | blind), vqa_unseen_combinations: $r[1].accuracy,
           types: ($r[0].types | map_values({accuracy, blind: blind, count})),
           pope_f1: ([$r[2:][].f1] | add / length),
           pope: {random: $r[2].f1, popular: $r[3].f1, adversarial: $r[4].f1},
           retrieval_r1: ([$t.image_to_text.r1, $t.text_to_image.r1] | add / length),
           retrieval_chance: (1 / $t.images), retrieval: $t,
           seconds: ([range(0; $ARGS.positional | length; 2)
               | {($ARGS.positional[.]): ($ARGS.positional[. + 1] | tonumber)}] | add)}' \
        "${seconds_of[@]}" >"$runs/summary.json"
    jq -r '
        def pct: . * 1000 | round / 10 | tostring | if test("\\.") then . else . + ".0" end | . + " %"
            | (" " * (8 - length)) + .;
        def row($a; $b; $c): ($a + " " * (26 - ($a | length))) + $b + "  " + $c;
        row("on held-out pictures"; "   right"; "   blind"),
        row("all questions"; .vqa_accuracy | pct; .vqa_blind | pct),
        (.types | to_entries[] | row("  " + .key; .value.accuracy | pct; .value.blind | pct)),
        row("never-seen combinations"; .vqa_unseen_combinations | pct; ""),
        row("POPE F1 (mean of three)"; .pope_f1 | pct; ""),
        row("retrieval, recall at 1"; .retrieval_r1 | pct; (.retrieval_chance | pct) + " by chance"),
        "seconds: " + (.seconds | to_entries | map("\(.key) \(.value)") | join(", "))' "$runs/summary.json"
}

ask() { # three questions about pictures of the test split, of three kinds
    printf '\n'
    jq -c 'select(.type == "colour" or .type == "count" or .type == "relation")' "$scenes/qa-test.jsonl" |
        jq -cs '[group_by(.type)[] | .[length / 2 | floor]][]' |
        while IFS= read -r row; do
            image=$scenes/$(jq -r .image <<<"$row") question=$(jq -r .question <<<"$row")
            printf '%s  %s\n    model: %s\n    truth: %s\n' "$image" "$question" \
                "$("$bin/percept" ask "$model" --image "$image" "$question" </dev/null)" "$(jq -r .answer <<<"$row")"
        done
    printf '\nCurves and pictures: %s and %s\nAsk one of your own:\n    %s ask %s --image PICTURE "%s"\n' \
        "$runs/report.html" "$runs/*/report.html" "$bin/percept" "$model" "How many objects are there?"
}

trap 'exit 130' INT TERM
mkdir -p build "$runs"
model=$runs/tune/checkpoints/best.h5
if [ -z "${PERCEPT_BIN:-}" ]; then
    run setup scripts/setup.sh
    run build build
fi
run scenes "$bin/percept-data" scenes "$scenes"
for stage in pretrain align tune; do run "$stage" train "$stage"; done
run eval judge
printf '\n'
summarise
ask
