/* One live line that log lines push down, or plain lines. */
#include "src/train/progress.h"

#include "src/core/clock.h"
#include "src/core/log.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool live, plain;
static int64_t every;
static double started, last_shown;
static char line[256];

static void hide(void) {
    if (line[0] != '\0') (void)!write(STDERR_FILENO, "\r\033[K", 4);
}

static void show(void) {
    if (line[0] != '\0') (void)!write(STDERR_FILENO, line, strlen(line));
}

void progress_open(const char *mode, bool quiet, int64_t every_steps) {
    bool automatic = strcmp(mode, "auto") == 0;
    live = !quiet && (automatic ? isatty(STDERR_FILENO) != 0 : strcmp(mode, "live") == 0);
    plain = !quiet && (automatic ? !live : strcmp(mode, "plain") == 0);
    every = every_steps;
    started = last_shown = clock_seconds();
    line[0] = '\0';
    if (live) log_set_line_hooks(hide, show);
}

static void describe(const ProgressReport *report, char *text, size_t size) {
    double seconds = clock_seconds() - started;
    double rate = seconds > 0 ? (double)report->samples / seconds : 0;
    int64_t left = report->total_steps - report->step;
    double eta = report->launch_steps > 0
                     ? seconds / (double)report->launch_steps * (double)left
                     : 0;
    char saved[48] = "nothing saved yet";
    if (report->saved_step >= 0)
        snprintf(saved, sizeof saved, "saved step %lld", (long long)report->saved_step);
    snprintf(text, size,
             "epoch %lld/%lld step %lld/%lld  loss %.4f  accuracy %.3f  lr %.2e  %.0f "
             "samples/s  "
             "%d:%02d left  %s",
             (long long)report->epoch, (long long)report->epochs, (long long)report->step,
             (long long)report->total_steps, report->loss, report->accuracy, report->lr,
             rate, (int)(eta / 60), (int)eta % 60, saved);
}

void progress_show(const ProgressReport *report) {
    char text[sizeof line];
    if (live && clock_seconds() - last_shown >= 0.1) {
        describe(report, text, sizeof text);
        hide();
        memcpy(line, text, sizeof line);
        show();
        last_shown = clock_seconds();
    }
    if (plain && every > 0 && report->step % every == 0) {
        describe(report, text, sizeof text);
        LOG_I("%s", text);
    }
}

void progress_close(void) {
    hide();
    line[0] = '\0';
    log_set_line_hooks(NULL, NULL);
}
