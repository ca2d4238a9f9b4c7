/* The cache of parameters in the formats that oneDNN's convolutions want. An entry is rebuilt by
 * the first worker that needs it after the parameter changed; which worker that is cannot be seen
 * in the result. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>

static size_t bucket_of(const float *canonical) {
    return ((uintptr_t)canonical >> 6) * 0x9e3779b97f4a7c15u >> 54;
}
_Static_assert(WEIGHTS_BUCKETS == 1 << 10, "bucket_of keeps 10 bits");

static void destroy(Weights *entry) {
    library_reorder_destroy(&entry->reorder);
    if (entry->memory != NULL) dnnl_memory_destroy(entry->memory);
    free(entry->data);
    pthread_mutex_destroy(&entry->lock);
    free(entry);
}

static Status create(Cpu *cpu, const float *canonical, const dnnl_memory_desc_t *plain,
                     const dnnl_memory_desc_t *format, Weights **out) {
    Weights *entry = calloc(1, sizeof *entry);
    if (entry == NULL)
        return FAIL(STATUS_MEMORY, "use fewer workers", "no memory for a cache entry");
    entry->canonical = canonical;
    entry->format = *format;
    pthread_mutex_init(&entry->lock, NULL);
    Status status = cpu_aligned(dnnl_memory_desc_get_size(format), &entry->data);
    if (status == STATUS_OK)
        status = library_status(
            dnnl_memory_create(&entry->memory, format, cpu->engine, entry->data),
            "dnnl_memory_create");
    if (status == STATUS_OK)
        status = library_reorder_create(cpu, plain, format, &entry->reorder);
    if (status != STATUS_OK) {
        destroy(entry);
        return status;
    }
    *out = entry;
    return STATUS_OK;
}

/* Finds or adds the entry. Call it with weights_lock held. */
static Status find(Cpu *cpu, const float *canonical, const dnnl_memory_desc_t *plain,
                   const dnnl_memory_desc_t *format, Weights **out) {
    Weights **bucket = &cpu->weights[bucket_of(canonical)];
    for (Weights *entry = *bucket; entry != NULL; entry = entry->next)
        if (entry->canonical == canonical &&
            dnnl_memory_desc_equal(&entry->format, format)) {
            *out = entry;
            return STATUS_OK;
        }
    TRY(create(cpu, canonical, plain, format, out));
    (*out)->next = *bucket;
    *bucket = *out;
    return STATUS_OK;
}

Status weights_in_format(Cpu *cpu, Worker *worker, const float *canonical,
                         const dnnl_memory_desc_t *plain, const dnnl_memory_desc_t *format,
                         dnnl_memory_t *out) {
    Weights *entry = NULL;
    pthread_mutex_lock(&cpu->weights_lock);
    Status status = find(cpu, canonical, plain, format, &entry);
    pthread_mutex_unlock(&cpu->weights_lock);
    TRY(status);

    pthread_mutex_lock(&entry->lock);
    if (!entry->fresh)
        status = library_reorder_run(worker, &entry->reorder, canonical, entry->data);
    entry->fresh = status == STATUS_OK;
    pthread_mutex_unlock(&entry->lock);
    *out = entry->memory;
    return status;
}

void weights_changed(Cpu *cpu, const float *data, int64_t count) {
    pthread_mutex_lock(&cpu->weights_lock);
    for (int i = 0; i < WEIGHTS_BUCKETS; i++)
        for (Weights *entry = cpu->weights[i]; entry != NULL; entry = entry->next)
            if (entry->canonical >= data && entry->canonical < data + count) {
                pthread_mutex_lock(&entry->lock);
                entry->fresh = false;
                pthread_mutex_unlock(&entry->lock);
            }
    pthread_mutex_unlock(&cpu->weights_lock);
}

/* Takes entries of parameters in [data, data + count) out of the table: a list of them. */
static Weights *take(Cpu *cpu, const float *data, int64_t count) {
    Weights *taken = NULL;
    for (int i = 0; i < WEIGHTS_BUCKETS; i++)
        for (Weights **link = &cpu->weights[i]; *link != NULL;) {
            Weights *entry = *link;
            if (entry->canonical >= data && entry->canonical < data + count) {
                *link = entry->next;
                entry->next = taken;
                taken = entry;
            } else {
                link = &entry->next;
            }
        }
    return taken;
}

/* Puts a stale entry into the table, in place of one that is like it. */
static void put(Cpu *cpu, Weights *entry) {
    entry->fresh = false; /* no operation runs meanwhile: nobody holds its lock */
    Weights **bucket = &cpu->weights[bucket_of(entry->canonical)];
    for (Weights **link = bucket; *link != NULL; link = &(*link)->next) {
        Weights *old = *link;
        if (old->canonical == entry->canonical &&
            dnnl_memory_desc_equal(&old->format, &entry->format)) {
            *link = old->next;
            destroy(old);
            break;
        }
    }
    entry->next = *bucket;
    *bucket = entry;
}

void weights_moved(Cpu *cpu, const float *from, const float *to, int64_t count) {
    weights_changed(cpu, to, count); /* what is there already, of other formats */
    pthread_mutex_lock(&cpu->weights_lock);
    for (Weights *entry = take(cpu, from, count), *next; entry != NULL; entry = next) {
        next = entry->next;
        entry->canonical = to + (entry->canonical - from);
        put(cpu, entry);
    }
    pthread_mutex_unlock(&cpu->weights_lock);
}

size_t weights_bytes(Cpu *cpu) {
    size_t bytes = 0;
    pthread_mutex_lock(&cpu->weights_lock);
    for (int i = 0; i < WEIGHTS_BUCKETS; i++)
        for (const Weights *entry = cpu->weights[i]; entry != NULL; entry = entry->next)
            bytes += dnnl_memory_desc_get_size(&entry->format);
    pthread_mutex_unlock(&cpu->weights_lock);
    return bytes;
}

void weights_forget(Cpu *cpu, const void *memory, size_t bytes) {
    uintptr_t begin = (uintptr_t)memory;
    pthread_mutex_lock(&cpu->weights_lock);
    for (int i = 0; i < WEIGHTS_BUCKETS; i++)
        for (Weights **link = &cpu->weights[i]; *link != NULL;) {
            Weights *entry = *link;
            if ((uintptr_t)entry->canonical - begin < bytes) {
                *link = entry->next;
                destroy(entry);
            } else {
                link = &entry->next;
            }
        }
    pthread_mutex_unlock(&cpu->weights_lock);
}
