/* chat.h: a conversation by the fixed texts of a CHAT section (docs/format.md): which text a turn is, and which of it somebody wrote.
 * It encodes nothing, owns nothing and prints nothing. Called by run.c. */
#ifndef AK42_CLI_CHAT_H
#define AK42_CLI_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* The strings of a CHAT section (docs/format.md). */
enum { CHAT_BEGIN, CHAT_DEFAULT_SYSTEM, CHAT_SYSTEM_PREFIX, CHAT_SYSTEM_SUFFIX, CHAT_USER_PREFIX, CHAT_USER_SUFFIX,
       CHAT_ASSISTANT_PREFIX, CHAT_ASSISTANT_SUFFIX, CHAT_GENERATION_PROMPT, CHAT_STRINGS };
/* Its flags. PROMPTED: it tells conversations that end with a question to be answered, and no program here needs others. */
enum { CHAT_STRIPPED = 1, CHAT_MERGED = 2, CHAT_SYSTEM_AS_IS = 4, CHAT_NO_SYSTEM = 8, CHAT_WHOLE = 16, CHAT_PROMPTED = 32,
       CHAT_DATED = 64, CHAT_THOUGHTS = 128, CHAT_LINES = 256 };

typedef struct text {
    const char *data;
    size_t size;
} text;

typedef struct chat {
    text strings[CHAT_STRINGS];
    uint32_t flags;
} chat;

/* A part of a turn: the template's own text, or somebody's words, in which nothing is a control token. */
typedef struct part {
    text what;
    bool is_content;
} part;

/* What is to be evaluated next, in parts that lie elsewhere. At most eleven: the last answer's suffix, begin, three of a system
 * message, a question with its prefix and suffix, and the generation prompt, or an answer with its prefix in its place. */
enum { TURN_PARTS = 12 };
typedef struct turn {
    part parts[TURN_PARTS];
    size_t n;
} turn;

/* False where the section is damaged or of a kind that is not known. The texts lie in data. */
bool chat_parse(chat *c, const unsigned char *data, size_t size);
/* Puts a day in place of the dates that a DATED chat's texts hold; they lie in buffer then, which has room for CHAT_DATE_GROWTH times
 * the section's size. */
enum { CHAT_DATE_GROWTH = 5 };
void chat_write_dates(chat *c, char *buffer, const struct tm *day);
void chat_add_template(turn *t, const chat *c, int string);
/* A user's message, the first one with what stands before it, and what the answer follows. system_prompt NULL: none. */
void chat_add_question(turn *t, const chat *c, text question, bool first, const char *system_prompt);
/* The answer to the turn's question, as a template that leaves out thoughts tells it later, in place of what it followed. */
void chat_add_answer(turn *t, const chat *c, text answer);

#endif
