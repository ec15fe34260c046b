/*
 * The MMU's knobs (USERKVM_PARAMS), read once for the process: what KVM has as
 * parameters of its module.
 */
#include <pthread.h>
#include <string.h>

#include "lib/params.h"
#include "mmu/internal.h"

static struct kvm_mmu_params params;
static pthread_once_t params_once = PTHREAD_ONCE_INIT;

/*
 * auto deploys the workaround where the processor has the bug, which ours has
 * not. Since parameters cannot be written later, never is as good as off.
 */
static bool read_nx_huge_pages(void)
{
	char value[8];

	if (!params_get_string("nx_huge_pages", value, sizeof(value)) || !strcmp(value, "auto") ||
	    !strcmp(value, "off") || !strcmp(value, "never"))
		return false;
	return !strcmp(value, "force") || params_get_bool("nx_huge_pages");
}

static void read_params(void)
{
	params = (struct kvm_mmu_params){
		.nested = params_get_bool("nested") && params_get_bool("ept"),
		.ept = params_get_bool("ept"),
		.eptad = params_get_bool("eptad"),
		.tdp_mmu = params_get_bool("tdp_mmu"),
		.eager_page_split = params_get_bool("eager_page_split"),
		.nx_huge_pages = read_nx_huge_pages(),
		.nx_huge_pages_recovery_ratio = params_get_u32("nx_huge_pages_recovery_ratio"),
		.nx_huge_pages_recovery_period_ms = params_get_u32("nx_huge_pages_recovery_period_ms"),
		.max_table_pages = max_u64(params_get_u64("max_table_pages"), MIN_TABLE_PAGES),
	};
}

const struct kvm_mmu_params *kvm_mmu_params(void)
{
	pthread_once(&params_once, read_params);
	return &params;
}
