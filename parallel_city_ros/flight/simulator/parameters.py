"""The parameters that the simulated autopilot knows: PX4's names, types and defaults."""

SIM_BAT_DRAIN_MOST = 86400.0

DEFAULTS: dict[str, int | float] = {    # an int is PX4's INT32, a float its FLOAT
    "MAV_SYS_ID": 1,
    "SYS_AUTOSTART": 10040,
    "COM_ARM_BAT_MIN": 0.07,        # share, arming needs more; here also what "critical" is
    "COM_DISARM_LAND": 2.0,         # s from landing to disarm
    "COM_DISARM_PRFLT": 10.0,       # s from arming to disarm if it does not take off
    "COM_DL_LOSS_T": 10,            # s without a ground station until the link is lost
    "COM_DLL_EXCEPT": 0,            # bits: modes in which that does not matter
    "COM_LOW_BAT_ACT": 0,           # 0 warn, 2 land, 3 return, then land
    "COM_RC_IN_MODE": 1,
    "COM_RCL_EXCEPT": 0,
    "COM_OF_LOSS_T": 1.0,
    "COM_OBL_RC_ACT": 0,
    "BAT_LOW_THR": 0.15,            # share
    "BAT_CRIT_THR": 0.07,
    "BAT_EMERGEN_THR": 0.05,
    "GF_ACTION": 2,                 # 0 none, 1 warn, 2 hold, 3 return, 5 land
    "GF_MAX_HOR_DIST": 0.0,         # m from home, 0 off
    "GF_MAX_VER_DIST": 0.0,         # m above home, 0 off
    "GF_PREDICT": 0,
    "GF_SOURCE": 0,
    "LNDMC_TRIG_TIME": 1.0,         # s
    "MIS_DIST_1WP": 10000.0,        # m, farthest first waypoint
    "MIS_TAKEOFF_ALT": 2.5,         # m, of the take-off mode
    "MIS_TKO_LAND_REQ": 0,
    "MPC_ACC_HOR": 3.0,             # m/s²
    "MPC_ACC_UP_MAX": 4.0,
    "MPC_ACC_DOWN_MAX": 3.0,
    "MPC_JERK_AUTO": 4.0,           # m/s³
    "MPC_LAND_ALT1": 10.0,          # m above home, below which it lands slower
    "MPC_LAND_ALT2": 5.0,           # m above home, below which it lands at MPC_LAND_SPEED
    "MPC_LAND_SPEED": 0.7,          # m/s
    "MPC_TKO_RAMP_T": 3.0,          # s
    "MPC_TKO_SPEED": 1.5,           # m/s
    "MPC_XY_CRUISE": 5.0,           # m/s
    "MPC_XY_ERR_MAX": 2.0,          # m
    "MPC_XY_TRAJ_P": 0.5,
    "MPC_XY_VEL_MAX": 12.0,         # m/s
    "MPC_YAW_MODE": 0,              # 0 towards the waypoint, 3 along the course
    "MPC_Z_V_AUTO_DN": 1.5,         # m/s
    "MPC_Z_V_AUTO_UP": 3.0,         # m/s
    "NAV_ACC_RAD": 3.0,             # m (PX4's own default is 10, SITL flew with 3)
    "NAV_MC_ALT_RAD": 0.8,          # m
    "NAV_DLL_ACT": 0,               # 0 none, 1 hold, 2 return, 3 land
    "NAV_RCL_ACT": 2,
    "RTL_CONE_ANG": 45,             # deg
    "RTL_DESCEND_ALT": 30.0,        # m
    "RTL_LAND_DELAY": 0.0,          # s
    "RTL_RETURN_ALT": 60.0,         # m above home
    "RTL_TYPE": 0,
    # PX4's own simulation empties its battery by time, in 60 s by default, and fills it when it
    # disarms. At its most this one is emptied by what is flown.
    "SIM_BAT_DRAIN": SIM_BAT_DRAIN_MOST,    # s
    "SIM_BAT_MIN_PCT": 50.0,                # %, below which it does not empty by time
}
