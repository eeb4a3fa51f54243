/*
 * jinja_filter.h - the filters on lists (jinja_select.c), for the table in jinja_filter.c.
 */
#ifndef PC_DATA_JINJA_FILTER_H
#define PC_DATA_JINJA_FILTER_H

#include "data/text/jinja_text.h"

typedef jvalue jfilter(jrun *r, jvalue v, jargs a);

jfilter jfilter_batch, jfilter_dictsort, jfilter_first, jfilter_items, jfilter_join, jfilter_last,
    jfilter_list, jfilter_map, jfilter_max, jfilter_min, jfilter_reject, jfilter_rejectattr,
    jfilter_reverse, jfilter_select, jfilter_selectattr, jfilter_sort, jfilter_sum, jfilter_unique;

#endif
