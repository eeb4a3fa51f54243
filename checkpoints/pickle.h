/*
 * pickle.h - PyTorch's files of plain state dicts (.bin, .pth, .pt), read without executing anything.
 *
 *   ZIP archive, members stored    NAME/data.pkl    a pickle, protocol 2 to 5, of {name: tensor}
 *                                  NAME/data/KEY    the raw numbers of a storage
 *
 * A pickle is a program. This one knows the opcodes that dicts, tuples, texts and numbers take, and names of four
 * kinds: OrderedDict, the storage classes, _rebuild_tensor_v2 and _rebuild_parameter. Whatever asks for more is
 * refused, with a sentence on how to convert the file. The state dict may stand under "state_dict", "model" or
 * "module" of the outer dict; values that are no tensors are left out.
 */
#ifndef PC_CHECKPOINTS_PICKLE_H
#define PC_CHECKPOINTS_PICKLE_H

#include "checkpoints/tensor_set.h"

// Whether the first bytes are those of a ZIP archive, or of a bare pickle as PyTorch before 1.6 wrote it.
bool pc_pickle_is(const unsigned char *bytes, size_t size);

// Appends the tensors of the mapping `file` of the set (s->file[file]); not sorted yet.
pc_status pc_pickle_add(pc_safetensors *s, int file);

#endif
