/* LMDB with no Python in the way, as one of the sessions that sessions.py drives.
 *
 *   lmdb FOLDER       requests on stdin, one JSON answer a line on stdout; README.md has them
 *
 * Keys and values are native 64-bit integers (MDB_INTEGERKEY), a value is its key times three, keys
 * that come sorted are appended (MDB_APPEND), and every commit is durable (LMDB's default).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAP_BYTES (8ull << 30)

struct keys {
	char name[256];
	uint64_t *key;
	size_t count;
};

static MDB_env *env;
static MDB_dbi tree;

static void die(const char *what, const char *why)
{
	printf("{\"error\": \"%s: %s\"}\n", what, why);
	exit(1);
}

#define TRY(call)                                                                                  \
	do {                                                                                       \
		int failed = (call);                                                               \
		if (failed)                                                                        \
			die(#call, mdb_strerror(failed));                                          \
	} while (0)

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* The whole of a file of keys, kept until another one is asked for. */
static const struct keys *load(const char *name, size_t want)
{
	static struct keys kept;
	FILE *file;
	struct stat about;

	if (strcmp(kept.name, name)) {
		file = fopen(name, "rb");
		if (!file || fstat(fileno(file), &about))
			die(name, strerror(errno));
		free(kept.key);
		kept.count = about.st_size / sizeof *kept.key;
		kept.key = malloc(about.st_size);
		if (!kept.key || fread(kept.key, sizeof *kept.key, kept.count, file) != kept.count)
			die(name, "cannot be read");
		fclose(file);
		snprintf(kept.name, sizeof kept.name, "%s", name);
	}
	if (want > kept.count)
		die(name, "has fewer keys");
	return &kept;
}

static void open_env(void)
{
	MDB_txn *txn;

	TRY(mdb_env_create(&env));
	TRY(mdb_env_set_mapsize(env, MAP_BYTES));
	TRY(mdb_env_open(env, ".", 0, 0644));
	TRY(mdb_txn_begin(env, NULL, 0, &txn));
	TRY(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &tree));
	TRY(mdb_txn_commit(txn));
}

static void close_env(void)
{
	if (env)
		mdb_env_close(env);
	env = NULL;
}

static void fresh(void)
{
	close_env();
	unlink("data.mdb");
	unlink("lock.mdb");
	open_env();
	printf("{}\n");
}

static void insert(const char *name, size_t count, size_t per_commit, int sorted)
{
	const struct keys *keys = load(name, count);
	double cpu = now(CLOCK_PROCESS_CPUTIME_ID), start = now(CLOCK_MONOTONIC);
	size_t done = 0, stop;
	MDB_cursor *cursor;
	MDB_txn *txn;

	while (done < count) {
		stop = count - done < per_commit ? count : done + per_commit;
		TRY(mdb_txn_begin(env, NULL, 0, &txn));
		TRY(mdb_cursor_open(txn, tree, &cursor));
		for (; done < stop; done++) {
			uint64_t key = keys->key[done], value = key * 3;
			MDB_val k = {sizeof key, &key}, v = {sizeof value, &value};

			TRY(mdb_cursor_put(cursor, &k, &v, sorted ? MDB_APPEND : 0));
		}
		mdb_cursor_close(cursor);
		TRY(mdb_txn_commit(txn));
	}
	printf("{\"seconds\": %.9f, \"cpu\": %.9f}\n", now(CLOCK_MONOTONIC) - start,
	       now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
}

static void lookup(const char *name, size_t count)
{
	const struct keys *keys = load(name, count);
	double cpu = now(CLOCK_PROCESS_CPUTIME_ID), start = now(CLOCK_MONOTONIC);
	uint64_t sum = 0, value;
	MDB_txn *txn;
	size_t i;

	TRY(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn));
	for (i = 0; i < count; i++) {
		MDB_val k = {sizeof keys->key[i], &keys->key[i]}, v;

		TRY(mdb_get(txn, tree, &k, &v));
		memcpy(&value, v.mv_data, sizeof value);
		sum += value;
	}
	mdb_txn_abort(txn);
	printf("{\"seconds\": %.9f, \"cpu\": %.9f, \"sum\": %lu}\n", now(CLOCK_MONOTONIC) - start,
	       now(CLOCK_PROCESS_CPUTIME_ID) - cpu, sum);
}

/* Every pair in order: their number, the sum of the keys and that of the values. */
static void scan(void)
{
	double cpu = now(CLOCK_PROCESS_CPUTIME_ID), start = now(CLOCK_MONOTONIC);
	uint64_t count = 0, keys = 0, values = 0, word;
	MDB_cursor *cursor;
	MDB_txn *txn;
	MDB_val k, v;

	TRY(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn));
	TRY(mdb_cursor_open(txn, tree, &cursor));
	for (; !mdb_cursor_get(cursor, &k, &v, MDB_NEXT); count++) {
		memcpy(&word, k.mv_data, sizeof word);
		keys += word;
		memcpy(&word, v.mv_data, sizeof word);
		values += word;
	}
	mdb_cursor_close(cursor);
	mdb_txn_abort(txn);
	printf("{\"seconds\": %.9f, \"cpu\": %.9f, \"count\": %lu, \"keys\": %lu, \"values\": %lu}\n",
	       now(CLOCK_MONOTONIC) - start, now(CLOCK_PROCESS_CPUTIME_ID) - cpu, count, keys, values);
}

/* zlib's CRC-32, a byte at a time. */
static uint32_t crc32(uint32_t crc, const void *bytes, size_t size)
{
	static uint32_t table[256];
	const unsigned char *byte = bytes;
	uint32_t i, bit;

	if (!table[1])
		for (i = 0; i < 256; i++)
			for (table[i] = i, bit = 0; bit < 8; bit++)
				table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320 : 0);
	for (crc = ~crc; size--; byte++)
		crc = table[(crc ^ *byte) & 0xff] ^ crc >> 8;
	return ~crc;
}

/* What the file holds once it is closed and opened again. */
static void digest(void)
{
	uint64_t count = 0;
	uint32_t keys = 0, values = 0;
	MDB_cursor *cursor;
	MDB_txn *txn;
	MDB_val k, v;

	close_env();
	open_env();
	TRY(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn));
	TRY(mdb_cursor_open(txn, tree, &cursor));
	for (; !mdb_cursor_get(cursor, &k, &v, MDB_NEXT); count++) {
		keys = crc32(keys, k.mv_data, k.mv_size);
		values = crc32(values, v.mv_data, v.mv_size);
	}
	mdb_cursor_close(cursor);
	mdb_txn_abort(txn);
	printf("{\"digest\": \"%lu %08x %08x\"}\n", count, keys, values);
}

int main(int argc, char **argv)
{
	char line[512], what[32], name[256], order[32];
	size_t count, per_commit;
	int words;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 2 || (mkdir(argv[1], 0755) && errno != EEXIST) || chdir(argv[1]))
		die(argc > 1 ? argv[1] : "lmdb", "not a folder");
	printf("{\"version\": \"%d.%d.%d\"}\n", MDB_VERSION_MAJOR, MDB_VERSION_MINOR,
	       MDB_VERSION_PATCH);
	while (fgets(line, sizeof line, stdin)) {
		words = sscanf(line, "%31s %255s %zu %zu %31s", what, name, &count, &per_commit, order);
		if (words == 1 && !strcmp(what, "fresh"))
			fresh();
		else if (words == 5 && !strcmp(what, "insert"))
			insert(name, count, per_commit, !strcmp(order, "sorted"));
		else if (words == 3 && !strcmp(what, "lookup"))
			lookup(name, count);
		else if (words == 1 && !strcmp(what, "scan"))
			scan();
		else if (words == 1 && !strcmp(what, "digest"))
			digest();
		else
			printf("{\"error\": \"cannot %s\"}\n", what);
	}
	close_env();
	return 0;
}
