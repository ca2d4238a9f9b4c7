/* Files made to harm: whoever can write a file can sign it, too. Each crafted file has a right user
 * block and right digests, and one thing in its HDF5 part that no checkpoint of ours has. */
#include "tests/support/checkpoint_state.h"
#include "tests/support/test.h"

#include "src/checkpoint/image.h"
#include "src/checkpoint/userblock.h"
#include "src/core/file.h"

#include <hdf5.h>

static char directory_path[64];
static int directory;
static int format = 1; /* that crafted files claim to have */
static const char NAME[] = "crafted.h5";

static int open_directory(void **unused) {
    (void)unused;
    directory = temporary_directory("/tmp", directory_path);
    return directory < 0;
}

static int remove_directory(void **unused) {
    (void)unused;
    unlinkat(directory, NAME, 0);
    close(directory);
    return rmdir(directory_path);
}

/* ---- the pieces of a file */
static void put_dataset(hid_t file, const char *path, hid_t type, hid_t space,
                        hid_t options) {
    hid_t dataset = H5Dcreate2(file, path, type, space, H5P_DEFAULT, options, H5P_DEFAULT);
    assert_true(dataset >= 0);
    unsigned char zeros[512] = {0};
    if (H5Sget_simple_extent_npoints(space) * (hssize_t)H5Tget_size(type) <=
        (hssize_t)sizeof zeros)
        H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros);
    H5Dclose(dataset);
}

static hid_t contiguous(void) {
    hid_t options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(options, H5D_ALLOC_TIME_EARLY);
    return options;
}

static void put_scalar(hid_t file, const char *path, hid_t type) {
    hid_t space = H5Screate(H5S_SCALAR), options = contiguous();
    put_dataset(file, path, type, space, options);
    H5Sclose(space);
    H5Pclose(options);
}

static void put_shape(hid_t file, const char *path, int rank, const hsize_t *shape,
                      hid_t options) {
    hid_t space = H5Screate_simple(rank, shape, NULL);
    put_dataset(file, path, H5T_IEEE_F32LE, space, options);
    H5Sclose(space);
}

static hid_t text_type(H5T_str_t padding) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 4);
    H5Tset_strpad(type, padding);
    return type;
}

static void put_texts(hid_t file) {
    hid_t type = text_type(H5T_STR_NULLTERM);
    H5Gclose(H5Gcreate2(file, "rekindle", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    for (int i = 0; i < IMAGE_TEXTS; i++) {
        char path[32];
        snprintf(path, sizeof path, "rekindle/%s", IMAGE_TEXT_NAMES[i]);
        put_scalar(file, path, type);
    }
    H5Tclose(type);
}

static void put_segments(hid_t file, hsize_t rows) {
    const hsize_t shape[] = {rows, 2};
    hid_t space = H5Screate_simple(2, shape, NULL), options = contiguous();
    put_dataset(file, "rekindle/segments", H5T_STD_U64LE, space, options);
    H5Sclose(space);
    H5Pclose(options);
}

/* Whole file read, changed by `patch`, signed as one region, and written back. */
static void sign(void (*patch)(char *bytes, size_t size)) {
    char *bytes;
    size_t size;
    assert_ok(file_read(directory, NAME, 64 << 20, &bytes, &size));
    size_t padded = (size + 4095) / 4096 * 4096;
    bytes = realloc(bytes, padded);
    memset(bytes + size, 0, padded - size);
    if (patch != NULL) patch(bytes + CHECKPOINT_USER_BLOCK, size - CHECKPOINT_USER_BLOCK);
    UserBlock block = known_block();
    block.version = format;
    block.bytes = (int64_t)padded;
    block.metadata_bytes = (int64_t)padded - CHECKPOINT_USER_BLOCK;
    block.metadata_digest =
        digest_of(bytes + CHECKPOINT_USER_BLOCK, padded - CHECKPOINT_USER_BLOCK);
    assert_ok(userblock_encode(&block, bytes));
    int fd = openat(directory, NAME, O_WRONLY);
    assert_int_equal(file_write_at(fd, bytes, padded, 0), 0);
    close(fd);
    free(bytes);
}

typedef void (*Ingredient)(hid_t file);

static void create(Ingredient add, bool whole, H5F_libver_t version) {
    char path[96];
    snprintf(path, sizeof path, "%s/%s", directory_path, NAME);
    hid_t options = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_userblock(options, CHECKPOINT_USER_BLOCK);
    H5Pset_link_phase_change(options, 1000, 0);
    H5Pset_libver_bounds(access, version, H5F_LIBVER_LATEST);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, options, access);
    assert_true(file >= 0);
    if (whole) {
        put_texts(file);
        put_segments(file, 0);
    }
    if (add != NULL) add(file);
    H5Pclose(options);
    H5Pclose(access);
    assert_true(H5Fclose(file) >= 0);
}

static Status open_crafted(void) {
    CheckpointReader *reader;
    TRY(checkpoint_reader_open(directory, NAME, &reader));
    checkpoint_reader_close(reader);
    return STATUS_OK;
}

/* ---- what is added to an otherwise right file */
static void a_scalar(hid_t file) {
    put_scalar(file, "step", H5T_STD_I64LE);
}

static void a_soft_link(hid_t file) {
    H5Lcreate_soft("/rekindle/config", file, "link", H5P_DEFAULT, H5P_DEFAULT);
}

static void a_link_outside(hid_t file) {
    H5Lcreate_external("/etc/passwd", "/x", file, "link", H5P_DEFAULT, H5P_DEFAULT);
}

static void a_second_name(hid_t file) {
    a_scalar(file);
    H5Lcreate_hard(file, "step", file, "twin", H5P_DEFAULT, H5P_DEFAULT);
}

static void a_loop(hid_t file) {
    hid_t group = H5Gcreate2(file, "loop", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_hard(file, "loop", group, "loop", H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(group);
}

static void a_loop_through_the_root(hid_t file) {
    H5Lcreate_hard(file, "/", file, "r", H5P_DEFAULT, H5P_DEFAULT);
}

static void a_named_type(hid_t file) {
    hid_t type = H5Tcopy(H5T_STD_I64LE);
    H5Tcommit2(file, "type", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Tclose(type);
}

static void external_storage(hid_t file) {
    const hsize_t shape[] = {4};
    hid_t options = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, shape, NULL);
    H5Pset_external(options, "/etc/passwd", 0, 16);
    H5Dclose(
        H5Dcreate2(file, "data", H5T_IEEE_F32LE, space, H5P_DEFAULT, options, H5P_DEFAULT));
    H5Pclose(options);
    H5Sclose(space);
}

static void a_virtual_dataset(hid_t file) {
    const hsize_t shape[] = {4};
    hid_t options = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, shape, NULL);
    H5Pset_virtual(options, space, "/etc/passwd", "/x", space);
    H5Dclose(
        H5Dcreate2(file, "data", H5T_IEEE_F32LE, space, H5P_DEFAULT, options, H5P_DEFAULT));
    H5Pclose(options);
    H5Sclose(space);
}

static void put_chunks(hid_t file, const char *path, int rank, const hsize_t *shape,
                       const hsize_t *chunk) {
    hid_t options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(options, rank, chunk);
    H5Pset_shuffle(options);
    H5Pset_deflate(options, 1);
    put_shape(file, path, rank, shape, options);
    H5Pclose(options);
}

static void deflated_chunks(hid_t file) {
    const hsize_t shape[] = {4};
    hid_t options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(options, 1, shape);
    H5Pset_deflate(options, 1);
    put_shape(file, "data", 1, shape, options);
    H5Pclose(options);
}

static void three_filters(hid_t file) {
    const hsize_t shape[] = {4};
    hid_t options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(options, 1, shape);
    H5Pset_shuffle(options);
    H5Pset_deflate(options, 1);
    H5Pset_fletcher32(options);
    put_shape(file, "data", 1, shape, options);
    H5Pclose(options);
}

static void packed_chunks(hid_t file) {
    const hsize_t shape[] = {4};
    put_chunks(file, "data", 1, shape, shape);
}

static void chunks_that_are_no_runs(hid_t file) {
    const hsize_t shape[] = {4, 4}, chunk[] = {2, 2};
    put_chunks(file, "data", 2, shape, chunk);
}

static void a_chunk_larger_than_any_of_ours(hid_t file) {
    const hsize_t shape[] = {(4 << 20) + 4};
    put_chunks(file, "data", 1, shape, shape);
}

static void chunks_without_an_index(hid_t file) {
    const hsize_t shape[] = {1000}, chunk[] = {100}; /* too long for put_dataset to write */
    put_chunks(file, "data", 1, shape, chunk);
}

static void an_enormous_packed_shape(hid_t file) {
    const hsize_t shape[] = {1ull << 40, 1ull << 18}, chunk[] = {1, 1 << 18};
    put_chunks(file, "data", 2, shape, chunk);
}

static void a_packed_shape_that_overflows(hid_t file) {
    const hsize_t shape[] = {1ull << 40, 1ull << 40}, chunk[] = {1, 1 << 18};
    put_chunks(file, "data", 2, shape, chunk);
}

static void a_packed_text(hid_t file) {
    const hsize_t shape[] = {4};
    put_chunks(file, "rekindle/more", 1, shape, shape);
}

static void compact_storage(hid_t file) {
    const hsize_t shape[] = {4};
    hid_t options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(options, H5D_COMPACT);
    put_shape(file, "data", 1, shape, options);
    H5Pclose(options);
}

static void a_huge_shape_without_storage(hid_t file) {
    const hsize_t shape[] = {1ull << 20, 1ull << 20, 1ull << 20};
    put_shape(file, "data", 3, shape, H5P_DEFAULT);
}

static void a_shape_that_overflows(hid_t file) {
    const hsize_t shape[] = {1ull << 31, 1ull << 30, 0};
    put_shape(file, "data", 3, shape, H5P_DEFAULT);
}

static void late_storage(hid_t file) {
    const hsize_t shape[] = {1000}; /* too long for put_dataset to write: never allocated */
    put_shape(file, "data", 1, shape, H5P_DEFAULT);
}

static void five_dimensions(hid_t file) {
    const hsize_t shape[] = {1, 1, 1, 1, 1};
    hid_t options = contiguous();
    put_shape(file, "data", 5, shape, options);
    H5Pclose(options);
}

static void no_elements(hid_t file) {
    const hsize_t shape[] = {3, 0};
    put_shape(file, "data", 2, shape, H5P_DEFAULT);
}

static void a_null_space(hid_t file) {
    hid_t space = H5Screate(H5S_NULL);
    H5Dclose(H5Dcreate2(file, "data", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT,
                        H5P_DEFAULT));
    H5Sclose(space);
}

static void big_endian(hid_t file) {
    put_scalar(file, "data", H5T_IEEE_F32BE);
}

static void a_small_integer(hid_t file) {
    put_scalar(file, "data", H5T_STD_I32LE);
}

static void a_compound(hid_t file) {
    hid_t type = H5Tcreate(H5T_COMPOUND, 8);
    H5Tinsert(type, "a", 0, H5T_STD_I32LE);
    H5Tinsert(type, "b", 4, H5T_IEEE_F32LE);
    put_scalar(file, "data", type);
    H5Tclose(type);
}

static void a_text_as_entry(hid_t file) {
    hid_t type = text_type(H5T_STR_NULLTERM);
    put_scalar(file, "data", type);
    H5Tclose(type);
}

static void an_unknown_dataset_of_ours(hid_t file) {
    put_scalar(file, "rekindle/more", H5T_STD_U64LE);
}

static void a_strange_name(hid_t file) {
    put_scalar(file, "so strange", H5T_STD_I64LE);
}

static void a_long_name(hid_t file) {
    char path[201] = {0};
    memset(path, 'n', 200);
    put_scalar(file, path, H5T_STD_I64LE);
}

static void deep_groups(hid_t file) {
    hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    char path[201];
    for (int i = 0; i < 100; i++)
        memcpy(path + 2 * i, "g/", 3);
    H5Gclose(H5Gcreate2(file, path, links, H5P_DEFAULT, H5P_DEFAULT));
    H5Pclose(links);
}

static void too_many_objects(hid_t file) {
    hid_t options = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_link_phase_change(options, 1000, 0);
    for (int i = 0; i * 256 <= IMAGE_OBJECTS_MAX; i++) {
        char path[32];
        snprintf(path, sizeof path, "g%d", i);
        hid_t group = H5Gcreate2(file, path, H5P_DEFAULT, options, H5P_DEFAULT);
        for (int j = 0; j < 256; j++) {
            snprintf(path, sizeof path, "g%d", j);
            H5Gclose(H5Gcreate2(group, path, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
        }
        H5Gclose(group);
    }
    H5Pclose(options);
}

static void names_in_a_heap(hid_t file) {
    hid_t options = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_link_phase_change(options, 0, 0);
    hid_t group = H5Gcreate2(file, "group", H5P_DEFAULT, options, H5P_DEFAULT);
    put_scalar(group, "step", H5T_STD_I64LE);
    H5Gclose(group);
    H5Pclose(options);
}

static void an_attribute(hid_t file) {
    hid_t space = H5Screate(H5S_SCALAR);
    H5Aclose(H5Acreate2(file, "attribute", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
}

static void unfiltered_chunks(hid_t file) {
    const hsize_t shape[] = {4};
    hid_t options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(options, 1, shape);
    put_shape(file, "data", 1, shape, options);
    H5Pclose(options);
}

static void a_shape_that_can_grow(hid_t file) {
    const hsize_t shape[] = {4}, most[] = {H5S_UNLIMITED};
    hid_t options = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, shape, most);
    H5Pset_chunk(options, 1, shape);
    put_dataset(file, "data", H5T_IEEE_F32LE, space, options);
    H5Pclose(options);
    H5Sclose(space);
}

static void open_as_crafted(Ingredient add, const char *said) {
    create(add, true, H5F_LIBVER_V18);
    sign(NULL);
    assert_fails(open_crafted(), STATUS_CORRUPT, said);
    assert_non_null(strstr(status_failure()->what, NAME));
}

/* The control: with nothing hostile in it, a crafted file opens. */
static void a_crafted_file_without_malice_opens(void **unused) {
    (void)unused;
    create(a_scalar, true, H5F_LIBVER_V18);
    sign(NULL);
    assert_ok(open_crafted());
}

static void other_versions_of_the_file_format_are_refused(void **unused) {
    (void)unused;
    const H5F_libver_t versions[] = {H5F_LIBVER_EARLIEST, H5F_LIBVER_V110};
    for (int i = 0; i < 2; i++) {
        create(a_scalar, true, versions[i]);
        sign(NULL);
        assert_fails(open_crafted(), STATUS_CORRUPT,
                     "another version of HDF5's superblock");
    }
}

static void what_leads_out_of_the_file_is_refused(void **unused) {
    (void)unused;
    open_as_crafted(a_soft_link, "link to something else");
    open_as_crafted(a_link_outside, "link to something else");
    open_as_crafted(external_storage, "stored in another file");
    open_as_crafted(a_virtual_dataset, "not stored contiguously");
}

static void what_leads_in_circles_is_refused(void **unused) {
    (void)unused;
    open_as_crafted(a_second_name, "several names");
    open_as_crafted(a_loop, "several names");
    open_as_crafted(a_loop_through_the_root, "several names");
    open_as_crafted(deep_groups, "too long");
}

static void other_storage_and_types_are_refused(void **unused) {
    (void)unused;
    open_as_crafted(deflated_chunks, "filtered otherwise");
    open_as_crafted(three_filters, "filtered otherwise");
    open_as_crafted(packed_chunks, "nor packed as a checkpoint's"); /* in version 1 */
    open_as_crafted(unfiltered_chunks, "not stored contiguously");
    open_as_crafted(a_packed_text, "not stored contiguously");
    open_as_crafted(a_shape_that_can_grow, "can grow");
    open_as_crafted(an_attribute, "holds what no checkpoint has");
    open_as_crafted(names_in_a_heap, "keeps its names where no checkpoint does");
    open_as_crafted(compact_storage, "not stored contiguously");
    open_as_crafted(big_endian, "little-endian");
    open_as_crafted(a_small_integer, "little-endian");
    open_as_crafted(a_compound, "little-endian");
    open_as_crafted(a_text_as_entry, "little-endian");
    open_as_crafted(a_named_type, "neither a group nor a dataset");
}

static void chunks_of_other_shapes_are_refused(void **unused) {
    (void)unused;
    format = 2;
    open_as_crafted(deflated_chunks, "filtered otherwise");
    open_as_crafted(unfiltered_chunks, "nor packed as a checkpoint's");
    open_as_crafted(a_packed_text, "not stored contiguously");
    open_as_crafted(packed_chunks, "on top of another, or of the metadata region");
    open_as_crafted(chunks_that_are_no_runs, "chunks of impossible shape");
    open_as_crafted(a_chunk_larger_than_any_of_ours, "chunks of impossible shape");
    open_as_crafted(chunks_without_an_index, "outside of the metadata region");
    open_as_crafted(an_enormous_packed_shape, "chunks of impossible shape");
    open_as_crafted(a_packed_shape_that_overflows, "larger than any file");
    format = 1;
}

static void impossible_shapes_are_refused(void **unused) {
    (void)unused;
    open_as_crafted(a_huge_shape_without_storage, "larger than the whole file");
    open_as_crafted(a_shape_that_overflows, "larger than the whole file");
    open_as_crafted(late_storage, "outside of the file");
    open_as_crafted(five_dimensions, "more than 4 dimensions");
    open_as_crafted(no_elements, "no elements");
    open_as_crafted(a_null_space, "neither a shape nor a value");
}

static void names_that_no_entry_can_have_are_refused(void **unused) {
    (void)unused;
    open_as_crafted(a_strange_name, "name that no entry can have");
    open_as_crafted(a_long_name, "too long");
    open_as_crafted(an_unknown_dataset_of_ours, "unknown to this version");
}

static void objects_without_number_are_refused(void **unused) {
    (void)unused;
    open_as_crafted(too_many_objects, "too many objects");
}

/* ---- our own datasets, missing or wrong */
static void nothing_but_the_group(hid_t file) {
    H5Gclose(H5Gcreate2(file, "rekindle", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
}

static void only_segments(hid_t file) {
    nothing_but_the_group(file);
    put_segments(file, 0);
}

static void too_many_segments(hid_t file) {
    put_texts(file);
    put_segments(file, 3);
}

static void a_text_of_another_kind(hid_t file) {
    nothing_but_the_group(file);
    hid_t type = text_type(H5T_STR_SPACEPAD), space = H5Screate(H5S_SCALAR);
    hid_t dataset = H5Dcreate2(file, "rekindle/config", type, space, H5P_DEFAULT,
                               H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, "abcd");
    H5Dclose(dataset);
    H5Tclose(type);
    H5Sclose(space);
}

static void a_text_of_variable_length(hid_t file) {
    nothing_but_the_group(file);
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    const char *text = "elsewhere";
    H5Tset_size(type, H5T_VARIABLE);
    hid_t dataset = H5Dcreate2(file, "rekindle/config", type, space, H5P_DEFAULT,
                               H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &text);
    H5Dclose(dataset);
    H5Tclose(type);
    H5Sclose(space);
}

static void our_own_datasets_must_be_there_and_right(void **unused) {
    (void)unused;
    static const struct {
        Ingredient add;
        const char *said;
    } cases[] = {
        {NULL, "identity is missing"},
        {only_segments, "identity is missing"},
        {put_texts, "segments is missing"},
        {too_many_segments, "not the table"},
        {a_text_of_another_kind, "not one text of fixed length"},
        {a_text_of_variable_length, "not one text of fixed length"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        create(cases[i].add, false, H5F_LIBVER_V18);
        sign(NULL);
        assert_fails(open_crafted(), STATUS_CORRUPT, cases[i].said);
    }
}

/* ---- addresses changed in the raw bytes: HDF5 would refuse them by its checksums, which we leave to
 * the region's digest */
static void two_vectors_and_a_text(hid_t file) {
    const hsize_t first[] = {77}, second[] = {79};
    hid_t options = contiguous();
    put_shape(file, "first", 1, first, options);
    put_shape(file, "second", 1, second, options);
    H5Pclose(options);
    hid_t text = H5Dopen2(file, "rekindle/config", H5P_DEFAULT),
          type = text_type(H5T_STR_NULLTERM);
    H5Dwrite(text, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, "xyz");
    H5Tclose(type);
    H5Dclose(text);
}

/* Where the address of the vector of `elements` stands, recognised by the size that follows it. */
static char *find_address(char *bytes, size_t size, uint64_t elements) {
    uint64_t storage = 4 * elements;
    for (size_t i = 8; i + 8 <= size; i++)
        if (memcmp(bytes + i, &storage, 8) == 0) return bytes + i - 8;
    fail_msg("no vector of %d elements in the file", (int)elements);
    return NULL;
}

static void second_on_first(char *bytes, size_t size) {
    uint64_t address;
    memcpy(&address, find_address(bytes, size, 77), 8);
    address += 300; /* the first one's last elements */
    memcpy(find_address(bytes, size, 79), &address, 8);
}

static void behind_the_end(char *bytes, size_t size) {
    uint64_t address = size;
    memcpy(find_address(bytes, size, 79), &address, 8);
}

static void far_away(char *bytes, size_t size) {
    uint64_t address = UINT64_MAX - 500;
    memcpy(find_address(bytes, size, 79), &address, 8);
}

static void into_the_user_block(char *bytes, size_t size) {
    uint64_t address = (uint64_t)-4096; /* addresses count from the user block's end */
    memcpy(find_address(bytes, size, 79), &address, 8);
}

static void without_an_end(char *bytes, size_t size) {
    char *text = memmem(bytes, size, "xyz", 4);
    assert_non_null(text);
    text[3] = '!';
}

static void no_hdf5_at_all(char *bytes, size_t size) {
    memset(bytes, 0x5a, size);
}

static void extents_that_overlap_or_leave_the_file_are_refused(void **unused) {
    (void)unused;
    static const struct {
        void (*patch)(char *, size_t);
        const char *said;
    } cases[] = {
        {second_on_first, "on top of another entry"},
        {behind_the_end, "outside of the file"},
        {far_away, "second"},
        {into_the_user_block, "outside of the file"},
        {without_an_end, "has no end"},
        {no_hdf5_at_all, "is not an HDF5 file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        create(two_vectors_and_a_text, true, H5F_LIBVER_V18);
        sign(NULL);
        assert_ok(open_crafted());
        sign(cases[i].patch);
        assert_fails(open_crafted(), STATUS_CORRUPT, cases[i].said);
    }
}

int main(void) {
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crafted_file_without_malice_opens),
        cmocka_unit_test(other_versions_of_the_file_format_are_refused),
        cmocka_unit_test(what_leads_out_of_the_file_is_refused),
        cmocka_unit_test(what_leads_in_circles_is_refused),
        cmocka_unit_test(other_storage_and_types_are_refused),
        cmocka_unit_test(chunks_of_other_shapes_are_refused),
        cmocka_unit_test(impossible_shapes_are_refused),
        cmocka_unit_test(names_that_no_entry_can_have_are_refused),
        cmocka_unit_test(objects_without_number_are_refused),
        cmocka_unit_test(our_own_datasets_must_be_there_and_right),
        cmocka_unit_test(extents_that_overlap_or_leave_the_file_are_refused),
    };
    return cmocka_run_group_tests(tests, open_directory, remove_directory);
}
