/* The two digests that S3 speaks of: SHA-256 signs what is sent, MD5 comes back as the entity tag. */
#include "src/core/file.h"
#include "src/store/request.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20 };

typedef struct {
    EVP_MD_CTX *sha256, *md5;
} Hashes;

static Status begin(Hashes *hashes) {
    hashes->sha256 = EVP_MD_CTX_new();
    hashes->md5 = EVP_MD_CTX_new();
    if (hashes->sha256 != NULL && hashes->md5 != NULL &&
        EVP_DigestInit_ex(hashes->sha256, EVP_sha256(), NULL) == 1 &&
        EVP_DigestInit_ex(hashes->md5, EVP_md5(), NULL) == 1)
        return STATUS_OK;
    return FAIL(STATUS_UNSUPPORTED, "use a libcrypto with SHA-256 and MD5",
                "libcrypto gives no SHA-256 or no MD5");
}

static void add(const Hashes *hashes, const void *data, size_t bytes) {
    EVP_DigestUpdate(hashes->sha256, data, bytes);
    EVP_DigestUpdate(hashes->md5, data, bytes);
}

static void print(EVP_MD_CTX *hash, char *out) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    EVP_DigestFinal_ex(hash, digest, &length);
    for (unsigned i = 0; i < length; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

static void finish(Hashes *hashes, RequestHashes *out) {
    print(hashes->sha256, out->sha256);
    print(hashes->md5, out->md5);
}

static void end(Hashes *hashes) {
    EVP_MD_CTX_free(hashes->sha256);
    EVP_MD_CTX_free(hashes->md5);
}

Status request_hash(const void *data, size_t bytes, RequestHashes *out) {
    Hashes hashes;
    Status status = begin(&hashes);
    if (status == STATUS_OK) {
        add(&hashes, data, bytes);
        finish(&hashes, out);
    }
    end(&hashes);
    return status;
}

Status request_hash_file(int fd, int64_t offset, int64_t bytes, RequestHashes *out) {
    Hashes hashes;
    char *piece = malloc(PIECE);
    Status status = begin(&hashes);
    if (status == STATUS_OK && piece == NULL)
        status = FAIL(STATUS_MEMORY, NULL, "no memory to hash what is sent");
    for (int64_t done = 0; done < bytes && status == STATUS_OK;) {
        size_t count = bytes - done < PIECE ? (size_t)(bytes - done) : (size_t)PIECE;
        if (file_read_at(fd, piece, count, offset + done) != 0)
            status = FAIL(STATUS_IO, file_fix_for(errno),
                          "cannot read what is to be sent (offset %lld): %s",
                          (long long)(offset + done), strerror(errno));
        else
            add(&hashes, piece, count);
        done += (int64_t)count;
    }
    if (status == STATUS_OK) finish(&hashes, out);
    end(&hashes);
    free(piece);
    return status;
}
