/*
 * test_tokenizer_pipeline.c - what stands around a model, part by part: each normaliser, each way of splitting, each
 * decoder. The expected texts are what Hugging Face's tokenizers 0.23.3 gives for the same JSON.
 */
#include "data/text/bpe.h"
#include "data/text/tokenizer.h"
#include "data/text/utf8.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct text_case {
    const char *part, *in, *out;
} text_case;

static const text_case splits[] = {
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": \"Isolated\", "
     "\"invert\": false}",
     "a b  c", "a| |b|  |c"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": \"Isolated\", "
     "\"invert\": true}",
     "a b  c", "a| |b|  |c"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": \"Removed\", "
     "\"invert\": false}",
     "a b  c", "a|b|c"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": \"Removed\", "
     "\"invert\": true}",
     "a b  c", " |  "},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": "
     "\"MergedWithPrevious\", \"invert\": false}",
     "a b  c", "a |b  |c"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": "
     "\"MergedWithPrevious\", \"invert\": true}",
     "a b  c", "a| b|  c"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": "
     "\"MergedWithNext\", \"invert\": false}",
     "a b  c", "a| b|  c"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": "
     "\"MergedWithNext\", \"invert\": true}",
     "a b  c", "a |b  |c"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": \"Contiguous\", "
     "\"invert\": false}",
     "a b  c", "a| |b|  |c"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": \"Contiguous\", "
     "\"invert\": true}",
     "a b  c", "a| |b|  |c"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s\"}, \"behavior\": \"Contiguous\", "
     "\"invert\": false}",
     "a  b", "a|  |b"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s\"}, \"behavior\": "
     "\"MergedWithPrevious\", \"invert\": false}",
     "a  b", "a | |b"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s\"}, \"behavior\": \"MergedWithNext\", "
     "\"invert\": false}",
     "a  b", "a| | b"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?=b)\"}, \"behavior\": \"Isolated\", "
     "\"invert\": false}",
     "abab", "a|ba|b"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": \"x*\"}, \"behavior\": \"Isolated\", "
     "\"invert\": false}",
     "axxb", "a|xx|b"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"a.\"}, \"behavior\": \"Isolated\", "
     "\"invert\": false}",
     "ba.ab", "b|a.|ab"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"always\", "
     "\"split\": true}",
     "a b  c",
     "\xE2\x96\x81"
     "a|\xE2\x96\x81"
     "b|\xE2\x96\x81|\xE2\x96\x81"
     "c"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"never\", "
     "\"split\": true}",
     " a b",
     "\xE2\x96\x81"
     "a|\xE2\x96\x81"
     "b"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"first\", "
     "\"split\": false}",
     "a b",
     "\xE2\x96\x81"
     "a\xE2\x96\x81"
     "b"},
    {"{\"type\": \"Digits\", \"individual_digits\": true}", "a12b", "a|1|2|b"},
    {"{\"type\": \"Digits\", \"individual_digits\": false}", "a12b", "a|12|b"},
    {"{\"type\": \"Whitespace\"}", "it's a_b, ok!", "it|'|s|a_b|,|ok|!"},
    {"{\"type\": \"WhitespaceSplit\"}", "it's  a,b", "it's|a,b"},
    {"{\"type\": \"Punctuation\", \"behavior\": \"Isolated\"}", "a,(b)_", "a|,|(|b|)|_"},
    {"{\"type\": \"BertPreTokenizer\"}", "it's  a,b", "it|'|s|a|,|b"},
    {"{\"type\": \"CharDelimiterSplit\", \"delimiter\": \"-\"}", "a--b-c", "a|b|c"},
    {"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"WhitespaceSplit\"}, {\"type\": "
     "\"Digits\", \"individual_digits\": true}]}",
     "ab1 2c", "ab|1|2|c"},
};

static const text_case normalisers[] = {
    {"{\"type\": \"NFC\"}", "e\xCC\x81 \xE1\x84\x80\xE1\x85\xA1 \xEF\xAC\x81",
     "\xC3\xA9 \xEA\xB0\x80 \xEF\xAC\x81"},
    {"{\"type\": \"NFD\"}", "\xC3\xA9", "e\xCC\x81"},
    {"{\"type\": \"NFKC\"}", "\xEF\xAC\x81\xE2\x91\xA0 e\xCC\x81", "fi1 \xC3\xA9"},
    {"{\"type\": \"NFKD\"}", "\xEF\xAC\x81\xC3\xA9", "fie\xCC\x81"},
    {"{\"type\": \"Lowercase\"}", "A\xC3\x89\xC4\xB0\xCE\xA3 x", "a\xC3\xA9i\xCC\x87\xCF\x83 x"},
    {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": false}",
     " \xE3\x80\x80"
     "a ",
     "a "},
    {"{\"type\": \"Strip\", \"strip_left\": false, \"strip_right\": true}", " a \n", " a"},
    {"{\"type\": \"StripAccents\"}", "e\xCC\x81n\xCC\x83", "en"},
    {"{\"type\": \"Prepend\", \"prepend\": \"> \"}", "a", "> a"},
    {"{\"type\": \"Replace\", \"pattern\": {\"String\": \"aa\"}, \"content\": \"b\"}", "aaaXaa",
     "baXb"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[a-c]+\"}, \"content\": \".\"}", "abcxcab",
     ".x."},
    {"{\"type\": \"Nmt\"}",
     "a\x01\t\xE2\x80\x8B"
     "b\xEF\xBB\xBF"
     "c",
     "a  b c"},
    {"{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFD\"}, {\"type\": "
     "\"StripAccents\"}, {\"type\": \"Lowercase\"}]}",
     "\xC3\x80\xC3\x89", "ae"},
};

static const struct {
    const char *part;
    int32_t ids[4];
    int count;
    const char *out;
} decodings[] = {
    {"null",
     {3, 0, 3},
     3,
     "\xE2\x96\x81"
     "a a \xE2\x96\x81"
     "a"},
    {"null",
     {2, 3, 1},
     3,
     "\xE2\x96\x81 \xE2\x96\x81"
     "a b"},
    {"null", {4, 5, 0}, 3, "<0xC3> <0xA9> a"},
    {"null", {4, 0, 4, 5}, 4, "<0xC3> a <0xC3> <0xA9>"},
    {"null", {5, 4, 5, 6}, 4, "<0xA9> <0xC3> <0xA9> <0xFF>"},
    {"null", {7, 0, 7}, 3, "c</w> a c</w>"},
    {"null", {8, 9}, 2, "a b \xC3\xA9"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, "
     "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}",
     {3, 0, 3},
     3,
     "aa a"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, "
     "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}",
     {2, 3, 1},
     3,
     " ab"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, "
     "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}",
     {4, 5, 0},
     3,
     "\xC3\xA9"
     "a"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, "
     "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}",
     {4, 0, 4, 5},
     4,
     "\xEF\xBF\xBD"
     "a\xC3\xA9"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, "
     "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}",
     {5, 4, 5, 6},
     4,
     "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, "
     "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}",
     {7, 0, 7},
     3,
     "c</w>ac</w>"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, "
     "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]}",
     {8, 9},
     2,
     "a b\xC3\xA9"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}]}",
     {3, 0, 3},
     3,
     " aa a"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}]}",
     {2, 3, 1},
     3,
     "  ab"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}]}",
     {4, 5, 0},
     3,
     "\xC3\xA9"
     "a"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}]}",
     {4, 0, 4, 5},
     4,
     "\xEF\xBF\xBD"
     "a\xC3\xA9"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}]}",
     {5, 4, 5, 6},
     4,
     "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}]}",
     {7, 0, 7},
     3,
     "c</w>ac</w>"},
    {"{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
     "\"\xE2\x96\x81\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}]}",
     {8, 9},
     2,
     "a b\xC3\xA9"},
    {"{\"type\": \"ByteFallback\"}",
     {3, 0, 3},
     3,
     "\xE2\x96\x81"
     "aa\xE2\x96\x81"
     "a"},
    {"{\"type\": \"ByteFallback\"}",
     {2, 3, 1},
     3,
     "\xE2\x96\x81\xE2\x96\x81"
     "ab"},
    {"{\"type\": \"ByteFallback\"}",
     {4, 5, 0},
     3,
     "\xC3\xA9"
     "a"},
    {"{\"type\": \"ByteFallback\"}",
     {4, 0, 4, 5},
     4,
     "\xEF\xBF\xBD"
     "a\xC3\xA9"},
    {"{\"type\": \"ByteFallback\"}",
     {5, 4, 5, 6},
     4,
     "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
    {"{\"type\": \"ByteFallback\"}", {7, 0, 7}, 3, "c</w>ac</w>"},
    {"{\"type\": \"ByteFallback\"}", {8, 9}, 2, "a b\xC3\xA9"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"always\", "
     "\"split\": true}",
     {3, 0, 3},
     3,
     "aa a"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"always\", "
     "\"split\": true}",
     {2, 3, 1},
     3,
     " ab"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"always\", "
     "\"split\": true}",
     {4, 5, 0},
     3,
     "<0xC3><0xA9>a"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"always\", "
     "\"split\": true}",
     {4, 0, 4, 5},
     4,
     "<0xC3>a<0xC3><0xA9>"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"always\", "
     "\"split\": true}",
     {5, 4, 5, 6},
     4,
     "<0xA9><0xC3><0xA9><0xFF>"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"always\", "
     "\"split\": true}",
     {7, 0, 7},
     3,
     "c</w>ac</w>"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"always\", "
     "\"split\": true}",
     {8, 9},
     2,
     "a b\xC3\xA9"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"never\", "
     "\"split\": true}",
     {3, 0, 3},
     3,
     " aa a"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"never\", "
     "\"split\": true}",
     {2, 3, 1},
     3,
     "  ab"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"never\", "
     "\"split\": true}",
     {4, 5, 0},
     3,
     "<0xC3><0xA9>a"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"never\", "
     "\"split\": true}",
     {4, 0, 4, 5},
     4,
     "<0xC3>a<0xC3><0xA9>"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"never\", "
     "\"split\": true}",
     {5, 4, 5, 6},
     4,
     "<0xA9><0xC3><0xA9><0xFF>"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"never\", "
     "\"split\": true}",
     {7, 0, 7},
     3,
     "c</w>ac</w>"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"never\", "
     "\"split\": true}",
     {8, 9},
     2,
     "a b\xC3\xA9"},
    {"{\"type\": \"BPEDecoder\", \"suffix\": \"</w>\"}",
     {3, 0, 3},
     3,
     "\xE2\x96\x81"
     "aa\xE2\x96\x81"
     "a"},
    {"{\"type\": \"BPEDecoder\", \"suffix\": \"</w>\"}",
     {2, 3, 1},
     3,
     "\xE2\x96\x81\xE2\x96\x81"
     "ab"},
    {"{\"type\": \"BPEDecoder\", \"suffix\": \"</w>\"}", {4, 5, 0}, 3, "<0xC3><0xA9>a"},
    {"{\"type\": \"BPEDecoder\", \"suffix\": \"</w>\"}", {4, 0, 4, 5}, 4, "<0xC3>a<0xC3><0xA9>"},
    {"{\"type\": \"BPEDecoder\", \"suffix\": \"</w>\"}",
     {5, 4, 5, 6},
     4,
     "<0xA9><0xC3><0xA9><0xFF>"},
    {"{\"type\": \"BPEDecoder\", \"suffix\": \"</w>\"}", {7, 0, 7}, 3, "c ac"},
    {"{\"type\": \"BPEDecoder\", \"suffix\": \"</w>\"}", {8, 9}, 2, "a b\xC3\xA9"},
    {"{\"type\": \"Strip\", \"content\": \"a\", \"start\": 1, \"stop\": 0}",
     {3, 0, 3},
     3,
     "\xE2\x96\x81"
     "a\xE2\x96\x81"
     "a"},
    {"{\"type\": \"Strip\", \"content\": \"a\", \"start\": 1, \"stop\": 0}",
     {2, 3, 1},
     3,
     "\xE2\x96\x81\xE2\x96\x81"
     "ab"},
    {"{\"type\": \"Strip\", \"content\": \"a\", \"start\": 1, \"stop\": 0}",
     {4, 5, 0},
     3,
     "<0xC3><0xA9>"},
    {"{\"type\": \"Strip\", \"content\": \"a\", \"start\": 1, \"stop\": 0}",
     {4, 0, 4, 5},
     4,
     "<0xC3><0xC3><0xA9>"},
    {"{\"type\": \"Strip\", \"content\": \"a\", \"start\": 1, \"stop\": 0}",
     {5, 4, 5, 6},
     4,
     "<0xA9><0xC3><0xA9><0xFF>"},
    {"{\"type\": \"Strip\", \"content\": \"a\", \"start\": 1, \"stop\": 0}",
     {7, 0, 7},
     3,
     "c</w>c</w>"},
    {"{\"type\": \"Strip\", \"content\": \"a\", \"start\": 1, \"stop\": 0}",
     {8, 9},
     2,
     " b\xC3\xA9"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[ab]\"}, \"content\": \"x\"}",
     {3, 0, 3},
     3,
     "\xE2\x96\x81xx\xE2\x96\x81x"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[ab]\"}, \"content\": \"x\"}",
     {2, 3, 1},
     3,
     "\xE2\x96\x81\xE2\x96\x81xx"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[ab]\"}, \"content\": \"x\"}",
     {4, 5, 0},
     3,
     "<0xC3><0xA9>x"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[ab]\"}, \"content\": \"x\"}",
     {4, 0, 4, 5},
     4,
     "<0xC3>x<0xC3><0xA9>"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[ab]\"}, \"content\": \"x\"}",
     {5, 4, 5, 6},
     4,
     "<0xA9><0xC3><0xA9><0xFF>"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[ab]\"}, \"content\": \"x\"}",
     {7, 0, 7},
     3,
     "c</w>xc</w>"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[ab]\"}, \"content\": \"x\"}",
     {8, 9},
     2,
     "x x\xC3\xA9"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
     "\"use_regex\": false}",
     {3, 0, 3},
     3,
     "\xE2\x96\x81"
     "aa\xE2\x96\x81"
     "a"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
     "\"use_regex\": false}",
     {2, 3, 1},
     3,
     "\xE2\x96\x81\xE2\x96\x81"
     "ab"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
     "\"use_regex\": false}",
     {4, 5, 0},
     3,
     "<0xC3><0xA9>a"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
     "\"use_regex\": false}",
     {4, 0, 4, 5},
     4,
     "<0xC3>a<0xC3><0xA9>"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
     "\"use_regex\": false}",
     {5, 4, 5, 6},
     4,
     "<0xA9><0xC3><0xA9><0xFF>"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
     "\"use_regex\": false}",
     {7, 0, 7},
     3,
     "c</w>ac</w>"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
     "\"use_regex\": false}",
     {8, 9},
     2,
     "a b\xEF\xBF\xBD"},
};

/* The ids of these decoders' vocabulary. */
static const char *const few[] = {
    "a",
    "b",
    "\xE2\x96\x81",
    ("\xE2\x96\x81"
     "a"),
    "<0xC3>",
    "<0xA9>",
    "<0xFF>",
    "c</w>",
    "a b",
    "\xC3\xA9",
};

static json_t *alphabet(void)
{
    json_t *vocab = json_object();
    for (int b = 0; b < 256; b++) {
        char name[8];
        name[pc_utf8_put((unsigned char *)name, pc_byte_char(b))] = '\0';
        json_object_set_new(vocab, name, json_integer(b));
    }
    return vocab;
}

static json_t *few_tokens(void)
{
    json_t *vocab = json_object();
    for (size_t i = 0; i < sizeof few / sizeof *few; i++)
        json_object_set_new(vocab, few[i], json_integer((json_int_t)i));
    return vocab;
}

static pc_tokenizer *tokenizer_with(json_t *vocab, const char *key, const char *part, bool bytes)
{
    json_t *root =
        json_pack("{s:{s:s, s:o, s:[]}}", "model", "type", "BPE", "vocab", vocab, "merges");
    json_object_set_new(root, key, json_loads(part, JSON_DECODE_ANY, NULL));
    if (bytes) {
        json_object_set_new(root, "pre_tokenizer",
                            json_pack("{s:s, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                                      "use_regex", 0));
        json_object_set_new(root, "decoder", json_pack("{s:s}", "type", "ByteLevel"));
    }
    char *text = json_dumps(root, 0);
    pc_tokenizer *t = NULL;
    if (pc_tokenizer_parse(&t, text, strlen(text))) fail_msg("%s: %s", part, pc_error_text());
    free(text);
    json_decref(root);
    return t;
}

static pc_status join_word(void *arg, const char *word, size_t size)
{
    char *out = arg;
    snprintf(out + strlen(out), 512 - strlen(out), "%s%.*s", *out ? "|" : "", (int)size, word);
    return PC_OK;
}

static void test_splits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        const text_case *c = &splits[i];
        pc_tokenizer *t = tokenizer_with(alphabet(), "pre_tokenizer", c->part, false);
        char got[512] = "";
        assert_int_equal(pc_words_each(&t->rules, c->in, strlen(c->in), true, join_word, got),
                         PC_OK);
        if (strcmp(got, c->out)) fail_msg("%s: '%s', expected '%s'", c->part, got, c->out);
        pc_tokenizer_close(t);
    }
}

static void test_normalisers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof normalisers / sizeof *normalisers; i++) {
        const text_case *c = &normalisers[i];
        pc_tokenizer *t = tokenizer_with(alphabet(), "normalizer", c->part, true);
        pc_ids ids = {0};
        char *got;
        assert_int_equal(pc_tokenizer_encode(t, &ids, c->in, strlen(c->in), true), PC_OK);
        assert_int_equal(pc_tokenizer_decode(t, &got, ids.list, ids.count, false), PC_OK);
        if (strcmp(got, c->out)) fail_msg("%s: '%s', expected '%s'", c->part, got, c->out);
        free(got);
        pc_ids_close(&ids);
        pc_tokenizer_close(t);
    }
}

static void stream_all(char *all, const pc_tokenizer *t, const int32_t *ids, int64_t n)
{
    char piece[1024];
    pc_stream_decoder d = {.tokenizer = t};
    *all = '\0';
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(pc_stream_decode(&d, ids[i], piece, sizeof piece), PC_OK);
        assert_true(pc_utf8_valid(piece, strlen(piece)));
        strcat(all, piece);
    }
    pc_stream_flush(&d, piece, sizeof piece);
    strcat(all, piece);
}

static void test_decoders(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof decodings / sizeof *decodings; i++) {
        const char *part = decodings[i].part;
        pc_tokenizer *t = tokenizer_with(few_tokens(), "decoder", part, false);
        char *got, all[1024];
        assert_int_equal(pc_tokenizer_decode(t, &got, decodings[i].ids, decodings[i].count, false),
                         0);
        if (strcmp(got, decodings[i].out))
            fail_msg("%s, case %zu: '%s', expected '%s'", part, i, got, decodings[i].out);
        stream_all(all, t, decodings[i].ids, decodings[i].count);
        if (strcmp(all, got)) fail_msg("%s, case %zu: streamed '%s', not '%s'", part, i, all, got);
        free(got);
        pc_tokenizer_close(t);
    }
}

/* A run of byte tokens longer than a stream holds: what is whole goes out, and nothing is ever half. */
static void test_long_runs(void **state)
{
    (void)state;
    enum { N = 2 * PC_STREAM_HELD };
    pc_tokenizer *t =
        tokenizer_with(few_tokens(), "decoder", "{\"type\": \"ByteFallback\"}", false);
    int32_t ids[2 * N + 1];
    char *got, all[8 * N];
    for (int i = 0; i < N; i++) {
        ids[2 * i] = 4; // the two bytes of an e with an acute accent
        ids[2 * i + 1] = 5;
    }
    assert_int_equal(pc_tokenizer_decode(t, &got, ids, 2 * N, false), PC_OK);
    stream_all(all, t, ids, 2 * N);
    assert_string_equal(all, got);
    free(got);
    ids[2 * N] = 6; // makes the whole run no text: known only when much of it is out
    stream_all(all, t, ids, 2 * N + 1);
    assert_true(pc_utf8_valid(all, strlen(all)));
    pc_tokenizer_close(t);
}

/* Thirty doublings of a small file would make gigabytes of a letter. */
static void test_growth_is_refused(void **state)
{
    (void)state;
    json_t *steps = json_array();
    for (int i = 0; i < 30; i++)
        json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern",
                                               "String", "a", "content", "aa"));
    json_t *sequence = json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", steps);
    char *part = json_dumps(sequence, 0);
    pc_tokenizer *t = tokenizer_with(alphabet(), "normalizer", part, true);
    pc_ids ids = {0};
    assert_int_equal(pc_tokenizer_encode(t, &ids, "a", 1, true), PC_ERR_INPUT);
    assert_non_null(strstr(pc_error_text(), "normalising"));
    pc_ids_close(&ids);
    pc_tokenizer_close(t);
    free(part);
    json_decref(sequence);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_normalisers),
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_long_runs),
        cmocka_unit_test(test_growth_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
