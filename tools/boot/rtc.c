/*
 * An MC146818 real-time clock with its CMOS memory (ports 70h, 71h): the
 * host's time in UTC, binary-coded decimal, 24 hours. No alarm, no interrupts.
 */
#include <stdlib.h>
#include <time.h>

#include "tools/boot/vm.h"

struct rtc {
	uint8_t index;
	uint8_t cmos[128];
};

enum { SECONDS = 0, MINUTES = 2, HOURS = 4, WEEKDAY = 6, DAY = 7, MONTH = 8, YEAR = 9, REG_A = 10, REG_B = 11, REG_C = 12, REG_D = 13, CENTURY = 0x32 };

struct rtc *rtc_create(void)
{
	return calloc(1, sizeof(struct rtc));
}

static uint8_t bcd(int v)
{
	return (uint8_t)(v / 10 << 4 | v % 10);
}

uint8_t rtc_read(struct rtc *r, uint16_t reg)
{
	time_t now = time(NULL);
	struct tm t;

	if (reg == 0)
		return r->index;
	gmtime_r(&now, &t);
	switch (r->index) {
	case SECONDS: return bcd(t.tm_sec);
	case MINUTES: return bcd(t.tm_min);
	case HOURS: return bcd(t.tm_hour);
	case WEEKDAY: return bcd(t.tm_wday + 1);
	case DAY: return bcd(t.tm_mday);
	case MONTH: return bcd(t.tm_mon + 1);
	case YEAR: return bcd(t.tm_year % 100);
	case CENTURY: return bcd(19 + t.tm_year / 100);
	case REG_A: return 0x26; /* 32,768 Hz, no update in progress */
	case REG_B: return 0x02; /* 24 hours, BCD */
	case REG_C: return 0;
	case REG_D: return 0x80; /* the battery is good */
	default: return r->cmos[r->index];
	}
}

void rtc_write(struct rtc *r, uint16_t reg, uint8_t v)
{
	if (reg == 0)
		r->index = v & 0x7f;
	else
		r->cmos[r->index] = v;
}
